"""Peers that live in environments of their own, because their dependencies are not ours. They answer through files."""
