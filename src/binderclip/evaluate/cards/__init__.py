"""The figures on the cards of the bundled models."""
