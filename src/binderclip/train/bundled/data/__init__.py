"""What the shipped weights are trained on: texts, pictures, photographs, kept maps and their batches."""
