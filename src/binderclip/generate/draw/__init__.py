"""Drawings: a picture given by parameters, and what they are moved by until it shows what it should."""
