"""Members on one link find each other there, with no router, no anchor and no known place.

home ── link ── laptop
"""

from __future__ import annotations

import json
import time

import pytest

from tests.netns.conftest import places
from tests.netns.test_network import end_of, join, members, reaches, up, ws
from tools.netlab import Lab, wait_until

pytestmark = pytest.mark.netns


def test_two_that_moved_to_one_link_meet_there(lab: Lab) -> None:
    hosts = lab.host("home"), lab.host("laptop")
    link = lab.link(*hosts)
    home, laptop = (end_of(host, n) for n, host in enumerate(hosts, start=1))
    made = ws(home, "network", "create", "hearth", "--name", "home", "--prefix", "10.99.0.0/24")
    assert made.returncode == 0
    up(home)
    join(laptop, home, "laptop")
    wait_until("laptop sees home", lambda: members(laptop)["home"]["session"], 20)

    # Both come to another network while they are off: what they know of each other is dead.
    for number, end in enumerate((home, laptop), start=1):
        ws(end, "down")
        device = link.device(end.host)
        end.host.ip(f"address flush dev {device}")
        end.host.ip(f"address add 192.168.77.{number}/24 dev {device}")
        assert "default" not in end.host.run("ip", "route").stdout
    up(home)
    wait_until(
        "home says so", lambda: home.status()["lan"]["interfaces"] == [link.device(hosts[0])]
    )
    up(laptop)
    begun = time.monotonic()
    wait_until("laptop sees home", lambda: members(laptop)["home"]["session"], 20)
    print(f"a session {time.monotonic() - begun:.2f} s after the second was up")
    wait_until("a packet", lambda: reaches(laptop, "10.99.0.1"), 10)
    # The session may have been home's doing, which heard laptop first.
    near = {"endpoint": f"192.168.77.1:{home.port}", "how": "near"}
    wait_until("laptop heard home", lambda: members(laptop)["home"]["places"][0] == near, 10)
    wait_until("a path", lambda: near["endpoint"] in places(laptop.status()["peers"][0]), 10)
    wait_until("home heard laptop", lambda: home.status()["lan"]["near"] == 1, 10)

    # Switched off it says goodbye, at once, and nothing more.
    laptop.config.write_text(laptop.config.read_text() + "\n[network]\nlan = false\n")
    ws(laptop, "reload")
    wait_until("it is near no more", lambda: not home.status()["lan"]["near"], 10)
    shown = json.loads(ws(laptop, "status", "--json").stdout)["lan"]
    assert (shown["enabled"], shown["interfaces"]) == (False, [])
