"""Guidance: what is added to the predicted noise, or done to the states, while pictures are sampled."""
