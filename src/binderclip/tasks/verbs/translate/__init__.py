"""What `translate` does: `request` is what it is asked, `train` the training, `run` the work and its results."""
