"""Fast reductions of tensors: counts by exponent and sums of squares, on the CPU, on a GPU and over shards."""
