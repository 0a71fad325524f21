"""What `segment-head` does."""
