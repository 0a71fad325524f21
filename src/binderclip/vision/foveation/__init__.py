"""Pictures as a fixed gaze sees them: pooling regions that grow with eccentricity, texture and blur inside them."""
