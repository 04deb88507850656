"""Changing a network that is already built, ours or foreign: other activations and norms, reparametrized weights."""
