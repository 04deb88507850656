"""The command line and composition: the only package that imports Hydra."""
