"""What the cards of bundled models print: figures on labelled photographs, measured."""
