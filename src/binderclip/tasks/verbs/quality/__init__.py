"""What `quality` does."""
