"""What `segment-task` does."""
