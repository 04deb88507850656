"""What a person sees of a run in a terminal: numbers in, lines out. Callbacks in `training.callbacks` show them."""
