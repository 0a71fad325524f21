"""How far the loss rises near a point: neighbourhoods, and the worst and the average loss in them."""
