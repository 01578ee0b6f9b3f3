"""Several paths to one peer: found, probed, measured, tuned (docs/multipath.md)."""
