"""What `generate` does: `request` is what it is asked, `run` the work, `folder` the one without a model."""
