"""Pictures from pictures or from words: adversarial training, and the networks that it trains."""
