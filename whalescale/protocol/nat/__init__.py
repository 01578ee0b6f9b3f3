"""What NATs do to us, and what they can be asked for."""
