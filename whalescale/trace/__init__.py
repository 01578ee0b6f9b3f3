"""`ws trace`: what the reordering buffer did, beside what TCP inside the tunnel made of it.

`sockets` asks the kernel for tcp_info (netlink), `events` runs `bcc_retransmits.py` under the
system's Python, `join` puts both beside the agent's statistics, `session` does it every interval,
`render` and `plot` draw it.
"""
