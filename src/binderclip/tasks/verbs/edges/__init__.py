"""What `edges` does."""
