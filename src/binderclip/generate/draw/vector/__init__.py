"""Vector drawings: Bezier strokes and filled paths, rendered with gradients, written to SVG and read from it."""
