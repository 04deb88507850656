"""Pictures and the page of a run, drawn from its record: draws numbers, measures nothing."""
