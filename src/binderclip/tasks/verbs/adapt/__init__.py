"""What `adapt` does."""
