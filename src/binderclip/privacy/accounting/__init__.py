"""What is spent and how it is drawn: ledger, accountants, report, noisy statistics, Poisson sampling."""
