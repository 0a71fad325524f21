"""Made sets whose truth is known: blocks, temporal order, planted defects."""
