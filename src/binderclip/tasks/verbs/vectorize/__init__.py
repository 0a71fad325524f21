"""What `vectorize` does: `request` is what it is asked, `drawn` one picture, `run` all of them, `result` the table."""
