"""What several packages need of torch, once: shards, isolated model runs, recurrent equations, private internals."""
