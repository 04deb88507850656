"""Numbers in, findings out: rules, remedies, the doctor. No hooks, no files, no torch."""

from stabletrain.diagnosis import rules as rules  # registers each rule and its remedies with its kind
