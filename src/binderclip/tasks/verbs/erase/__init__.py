"""What `erase` does."""
