"""What `personalize` does."""
