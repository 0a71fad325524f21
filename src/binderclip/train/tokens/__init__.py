"""Shorter inputs in training: image tokens, caption tokens, and positions that go with them."""
