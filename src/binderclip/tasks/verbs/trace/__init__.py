"""What `trace` does."""
