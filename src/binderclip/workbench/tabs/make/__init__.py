"""Tabs that make pictures, or change them."""
