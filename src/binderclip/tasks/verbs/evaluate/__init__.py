"""What `evaluate` does: `request` is what it is asked, `run` the work."""
