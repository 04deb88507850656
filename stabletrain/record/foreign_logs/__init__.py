"""Reads what other tools log of a training: the loss, the learning rate, the gradient's norm, validation."""
