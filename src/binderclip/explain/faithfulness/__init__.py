"""Tests of attributions: perturbation, retraining, randomisation, localisation; methods side by side."""
