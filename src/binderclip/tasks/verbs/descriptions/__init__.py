"""What `descriptions` does: `request` is what it is asked, `run` the work."""
