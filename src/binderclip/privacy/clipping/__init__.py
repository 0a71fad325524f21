"""How one sample's part is bounded, and what is done with what was cut off."""
