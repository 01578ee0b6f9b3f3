"""The bench: every contestant in turn, round by round, in network namespaces of this machine."""
