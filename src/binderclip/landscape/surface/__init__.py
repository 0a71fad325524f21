"""The loss over lines and planes of the weights, and between two models."""
