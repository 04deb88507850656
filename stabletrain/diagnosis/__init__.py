"""Numbers in, findings out: rules, remedies, the doctor. No hooks, no files, no torch."""
