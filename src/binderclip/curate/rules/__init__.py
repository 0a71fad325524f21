"""What is kept: thresholds, fractions, groups, quotas of clusters, balanced concepts."""
