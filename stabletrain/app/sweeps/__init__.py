"""Several runs of one command: sweeps and searches."""
