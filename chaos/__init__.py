"""Faults on purpose against the whole service on one machine, and an independent look at what they left."""
