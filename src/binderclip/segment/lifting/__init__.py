"""From masks of a scene's pictures to labels of its 3-D Gaussians (p101)."""
