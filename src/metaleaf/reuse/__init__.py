"""What to do with a trained model: score it again, take it away."""
