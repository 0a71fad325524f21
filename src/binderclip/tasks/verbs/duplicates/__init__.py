"""What `duplicates` does: `request` is what it is asked, `run` the work, `result` the groups, `report` a page."""
