"""Measurements that several studies read their rows from."""
