"""Train deep and recurrent networks that stay stable, and see where the gradient goes."""

__version__ = "0.1.0"
