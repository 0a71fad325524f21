"""What `edit` does: `request` is what it is asked, `run` the work, `methods` each way to edit."""
