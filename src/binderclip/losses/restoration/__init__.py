"""Losses between pictures, and of two layers or a flow by themselves."""
