"""Helpers around torch that several packages share: shards, isolated model runs, recurrent steps, torch internals."""
