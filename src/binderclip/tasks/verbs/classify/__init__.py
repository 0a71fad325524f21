"""What `classify` does."""
