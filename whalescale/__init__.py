"""Whalescale: a peer-to-peer multipath VPN that is WireGuard on the wire."""

__version__ = "0.2.0"
