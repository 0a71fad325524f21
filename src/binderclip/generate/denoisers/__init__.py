"""Denoisers, the schedule that they were made for, and what runs them: sampling, inversion, distillation."""
