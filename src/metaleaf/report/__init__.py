"""From numbers to what people read."""
