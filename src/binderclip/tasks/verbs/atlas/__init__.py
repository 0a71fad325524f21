"""What `atlas` does: `request` is what it is asked, `run` the work, `result` what comes of it, `sheet` the picture."""
