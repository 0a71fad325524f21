"""What every study shares: the study, its criteria, the runner, the page and the figures."""
