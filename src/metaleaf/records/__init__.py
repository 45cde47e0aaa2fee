"""What runs left, read without torch."""
