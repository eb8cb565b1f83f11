"""Input made to cost: what refusing it takes, and what becomes of files that were altered."""
