"""What pages click on pictures."""
