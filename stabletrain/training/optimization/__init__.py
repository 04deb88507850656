"""What decides an optimizer step: optimizers, schedules, clipping, and the stability policy."""
