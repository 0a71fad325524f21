"""What `locate` does."""
