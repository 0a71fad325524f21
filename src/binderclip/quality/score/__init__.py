"""Scores of single pictures without a reference: prompts, learned prompts, and how well a score agrees with people."""
