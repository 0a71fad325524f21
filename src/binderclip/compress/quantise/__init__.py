"""Computation in few bits: training with quantised weights, activations and gradients, and int8 inference."""
