"""Inspectors that find mistakes in the code, each by what only that mistake does."""
