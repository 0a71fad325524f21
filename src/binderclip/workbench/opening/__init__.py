"""What is on the page before its scripts have run, and the thumbnails in it."""
