"""Tasks and where they run. Knows nothing of images or models."""
