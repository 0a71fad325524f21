"""What `segment-example` does."""
