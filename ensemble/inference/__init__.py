"""Views of images to probabilities, in torch. Only a worker imports it."""
