"""What `draw` does: `request` is what it is asked, `methods` the ways to draw, `judge` who judges, `run` the work."""
