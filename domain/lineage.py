"""What a relation between a version and a file means."""

# The version's weights learned from the file, or from a version whose weights did: something of it may be in them.
LEARNED = frozenset({"trained_on", "continued_from"})
