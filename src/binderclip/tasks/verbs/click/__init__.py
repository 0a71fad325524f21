"""What `click` does."""
