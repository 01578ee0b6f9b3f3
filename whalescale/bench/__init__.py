"""Measuring a tunnel: what `ws bench` and the project's own bench (tools/bench) share."""
