"""A fast start of the command line: packages that a run does not need are imported when something asks for them."""
