"""A page of the runs in a folder, live: a list of all, and one page each. Reads the records, writes nothing."""
