"""What `segment` does."""
