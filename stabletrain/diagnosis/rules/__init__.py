"""One rule, one function: observations in, findings out."""
