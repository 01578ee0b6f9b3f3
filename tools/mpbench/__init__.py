"""`make bench-multipath`: one session over several emulated links, against MPTCP and each alone."""
