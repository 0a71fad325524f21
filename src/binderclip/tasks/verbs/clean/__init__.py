"""What `clean` does: `request` is what it is asked, `run` the work and its result."""
