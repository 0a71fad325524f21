"""What `segment-presets` does."""
