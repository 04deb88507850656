"""Finding the weights, residual branches, head and activation of any network, ours or foreign."""
