"""One module per command; each has `run(composition, arguments) -> exit code`."""
