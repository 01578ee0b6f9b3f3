"""What benches are made of: contestants, rounds, reports, a command line.

`tools/bench` (one path, against wireguard-go) and `tools/mpbench` (several links, against MPTCP)
put them together; how load is made and read is in `whalescale/bench`, which `ws bench` has too.
"""
