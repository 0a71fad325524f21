"""What `enhance` does."""
