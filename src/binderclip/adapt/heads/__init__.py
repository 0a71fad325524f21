"""What every head shares: its base class, the training loop of tuned ones, the text prior, inputs, files, shots."""
