"""Whose training loop a run is, which decides the words of its advice."""

LIGHTNING, HUGGINGFACE, LOOP = "lightning", "huggingface", "loop"
