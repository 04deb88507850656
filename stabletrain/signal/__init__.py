"""Measuring: the one-pass histogram, layer names in forward order, per-layer statistics. Observes, never changes."""
