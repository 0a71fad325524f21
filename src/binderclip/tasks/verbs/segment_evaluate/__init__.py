"""What `segment-evaluate` does."""
