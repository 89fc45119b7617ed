"""Which channels are one and the same, and how they are deleted."""
