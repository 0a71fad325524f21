"""Per-sample gradients: recorded operations, their norms without the gradients themselves, and clipped sums."""
