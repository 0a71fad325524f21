"""Experiments that several papers share: data, models and trainings, without claims of their own."""
