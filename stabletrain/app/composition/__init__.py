"""Compose overrides into a checked configuration."""
