"""Models that a page trains: kept for its other tabs, and packed to be taken along."""
