"""What can be found out about any network: its weights, its residual branches, its head, its activation."""
