"""The ground floor: every name that more than one room uses, written once."""
