"""The command line and composition: the only room that knows Hydra."""
