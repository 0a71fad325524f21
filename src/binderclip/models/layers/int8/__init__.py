"""Layers that compute in int8 on the CPU, and the record of them in a model's configuration."""
