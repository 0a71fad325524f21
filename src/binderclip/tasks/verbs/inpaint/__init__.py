"""What `inpaint` does."""
