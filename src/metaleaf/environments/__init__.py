"""The track of new environments."""
