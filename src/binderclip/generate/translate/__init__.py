"""Adversarial training: one trainer, its losses, and pictures made from pictures or from words."""
