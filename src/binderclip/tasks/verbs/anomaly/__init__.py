"""What `anomaly` does."""
