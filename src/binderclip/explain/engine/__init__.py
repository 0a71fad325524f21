"""What attributions share: passes, observed layers, targets, gathering over inputs, placement of maps, drawing."""
