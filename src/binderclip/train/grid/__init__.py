"""Grids of training runs: launched, resumed, put into one table."""
