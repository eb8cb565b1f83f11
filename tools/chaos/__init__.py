"""Tools that kill what they can reach, and look at what is left."""
