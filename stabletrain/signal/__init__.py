"""Measure per-layer statistics: one-pass histograms, layer names in forward order. Nothing is changed by it."""
