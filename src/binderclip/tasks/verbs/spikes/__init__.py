"""What `spikes` does."""
