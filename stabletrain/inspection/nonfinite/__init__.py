"""Says where a non-finite value comes from, on the first step that has one."""
