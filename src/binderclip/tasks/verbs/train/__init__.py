"""What `train` does."""
