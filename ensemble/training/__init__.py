"""One fold's training, in torch. Only a worker imports it."""
