"""Inspects single training steps for what statistics cannot show: mistakes in the code, the origin of a NaN."""
