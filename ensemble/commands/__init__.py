"""One file a verb: read, call, give back what to print."""
