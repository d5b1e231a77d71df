"""Many files through one pipeline: what is found, planned, restored, reported and resumed."""
