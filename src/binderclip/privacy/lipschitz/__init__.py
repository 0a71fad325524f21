"""Private training without clipping: layers whose Lipschitz constants bound every sample's gradient."""
