"""What `curate` does."""
