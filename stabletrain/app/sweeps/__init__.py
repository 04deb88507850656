"""Sweeps and searches: several runs started by one command."""
