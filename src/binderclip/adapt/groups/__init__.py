"""Mitigation of gaps between groups: thresholds of their own, and an attribute's direction removed from features."""
