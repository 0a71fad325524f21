"""Minimum cuts: of grids, of colours, of maps and clicks."""
