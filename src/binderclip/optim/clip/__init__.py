"""Gradient clipping: granularity x statistic x threshold x action, its log, and how it attaches to an optimizer."""
