"""Marks drawn on pictures, and regions, words and keypoints found by them."""
