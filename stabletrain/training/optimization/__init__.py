"""Optimizers, learning rate schedules, gradient clipping, and the stability policy."""
