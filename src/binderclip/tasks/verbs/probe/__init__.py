"""What `probe` does."""
