"""A public scoreboard: the 52 real programs on which DeepFD was evaluated, rebuilt small in PyTorch."""
