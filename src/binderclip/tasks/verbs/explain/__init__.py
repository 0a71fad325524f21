"""What `explain` does."""
