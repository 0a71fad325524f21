"""What `compress` does: `request` is what it is asked, `run` the work, `result` what comes of it."""
