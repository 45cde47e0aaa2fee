"""The algorithms that are there, and the start of a new one."""
