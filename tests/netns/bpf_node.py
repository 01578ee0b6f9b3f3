"""A host with the eBPF programs and plain sockets: bpf_node.py SETUP.json, then commands on stdin.

SETUP: {"devices": [...], "hook": "TC", "locals": [...], "broadcasts": [...], "known": [...],
"port": N, "rates": [source, burst, strangers, burst], "ladder": bool, "expected": [index, ...]
or null}. Every line on stdin ("answer": send back what came, "forget IP": it is no peer's any more)
is answered with a line of JSON:
{"hooks", "shield", "paths", "strangers", "got"}; "got" counts what the sockets received, by length.
"""

from __future__ import annotations

import json
import socket
import sys
from collections import Counter
from dataclasses import asdict

from whalescale.dataplane import confine
from whalescale.dataplane.programs import Hook, Program, Programs, Rates

SO_RCVBUFFORCE = 33


def main() -> None:
    setup = json.loads(sys.argv[1])
    programs = Programs.load(Program.SHIELD | Program.PATHS, tag=77)
    # As in the agent: all the rest has to work with what is left.
    confine.keep_net_admin_only()
    programs.check()
    expected = setup.get("expected")
    source, source_burst, strangers, strangers_burst = setup["rates"]
    ladder = setup.get("ladder", False)
    asked = expected is not None
    programs.set_rates(
        Rates(source, source_burst, strangers, strangers_burst, ladder, awaited=asked)
    )
    for index in expected or ():
        programs.expect_answer(index)
    programs.set_ports([9, setup["port"]])
    programs.set_locals(["192.0.2.1", "2001:db8::1"])
    programs.set_ports([setup["port"]])
    programs.set_locals(setup["locals"], setup.get("broadcasts", ()))
    for ip in setup["known"]:
        programs.add_known(ip)
    hooks = {
        device: programs.attach(socket.if_nametoindex(device), Hook[setup["hook"]]).name
        for device in setup["devices"]
    }
    sockets = []
    for family in (socket.AF_INET, socket.AF_INET6):
        s = socket.socket(family, socket.SOCK_DGRAM)
        s.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
        if family == socket.AF_INET6:
            s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        s.bind(("", setup["port"]))
        s.setblocking(False)
        sockets.append(s)
    got: Counter[int] = Counter()
    print("ready", flush=True)
    for line in sys.stdin:
        what, _, ip = line.strip().partition(" ")
        answer = what == "answer"
        if what == "forget":
            programs.remove_known(ip)
        for s in sockets:
            while True:
                try:
                    data, sender = s.recvfrom(65536)
                except BlockingIOError:
                    break
                got[len(data)] += 1
                if answer:
                    s.sendto(data, sender)
        paths, strangers = programs.paths()
        print(
            json.dumps(
                {
                    "hooks": hooks,
                    "shield": asdict(programs.shield_stats()),
                    "strangers": asdict(strangers),
                    "paths": [
                        {"local": a, "remote": b, "rx": asdict(rx), "tx": asdict(tx)}
                        for (a, b), (rx, tx) in paths.items()
                    ],
                    "got": got,
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
