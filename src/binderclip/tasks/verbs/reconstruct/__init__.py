"""What `reconstruct` does: `request` is what it is asked, `slices` reads them, `run` the work, `result` what comes."""
