"""Gradients that are not backpropagated through the whole network, or not used as they come."""
