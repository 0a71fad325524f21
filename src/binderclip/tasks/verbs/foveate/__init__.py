"""What `foveate` does: `request` is what it is asked, `run` the work, `rings` what is measured, `result` what comes."""
