"""What `detect` does."""
