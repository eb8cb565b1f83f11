"""Members to one submission, and what it is worth. No torch, no recipe."""
