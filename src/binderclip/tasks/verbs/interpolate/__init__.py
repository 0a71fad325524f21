"""What `interpolate` does: `request` is what it is asked, `run` the work, `result` what is found, `report` the page."""
