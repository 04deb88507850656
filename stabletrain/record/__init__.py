"""The record of a run on disk: an event file that training appends to and everything else reads."""
