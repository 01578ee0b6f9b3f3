"""The package under a real systemd, in a virtual machine: started, reloaded, killed, rebooted."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.test_deb import built, older
from tests.netns.test_network import end_of, up, ws
from tools import clean_system, vm
from tools.netlab import Lab, LabError, wait_until
from tools.systemd_vm import SystemdVm, make_image

pytestmark = [pytest.mark.netns, pytest.mark.alone, pytest.mark.long, pytest.mark.vm]

#: what takes two minutes in an emulated machine takes long on a busy one
SLOW_S = 600.0


@pytest.fixture(params=sorted(clean_system.CODENAMES))
def image(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    if reason := vm.unavailable():
        pytest.skip(reason)
    package = built(request.param)
    made = tmp_path / "image"
    make_image(request.param, package, older(package, tmp_path), made)
    yield made
    made.unlink()


# A worker's thread alone is stopped, as one that never comes round again: the rest goes on.
STUCK = (
    "t=$(grep -l ws-worker /proc/{0}/task/*/comm | head -1 | cut -d/ -f5); "
    '(setsid python3 -c "import ctypes, time; '
    'ctypes.CDLL(None).ptrace(16, $t, 0, 0); time.sleep(600)" >/dev/null 2>&1 </dev/null &)'
)


def value(machine: SystemdVm, name: str) -> str:
    return machine.run(f"systemctl show -P {name} ws@ws0")[1].strip()


@pytest.mark.timeout(10800)
def test_the_unit_under_systemd(image: Path) -> None:
    with Lab() as lab:
        home = end_of(lab.host("home"), 1)
        machine = SystemdVm(home.host, image)
        ws(home, "network", "create", "hearth", "--name", "home", "--prefix", "10.99.0.0/24")
        up(home)
        ticket = home.ws("invite", "box", "-i", home.interface).stdout.strip()

        def reached() -> bool:
            return machine.run("ping -c1 -W2 10.99.0.1", check=False)[0] == 0

        def restarted(before: str) -> bool:
            now = value(machine, "MainPID")
            return now not in (before, "0") and value(machine, "ActiveState") == "active"

        # From the installed package to a member: one command each.
        machine.run(f"ws join {ticket}", timeout=SLOW_S)
        status, told = machine.run("systemctl enable --now ws@ws0", check=False, timeout=900)
        assert status == 0, told + machine.run("journalctl -u ws@ws0 -n 60", check=False)[1]
        wait_until("the tunnel", reached, SLOW_S)
        assert value(machine, "Type") == "notify"
        assert "/dev/net/tun" in value(machine, "BindPaths")
        verified = machine.run("systemd-analyze verify --man=no ws@ws0.service", timeout=SLOW_S)[1]
        assert "ws@" not in verified, verified
        told = machine.run("systemd-analyze security --no-pager ws@ws0", timeout=SLOW_S)[1]
        found = re.search(r"Overall exposure level for \S+ ([0-9.]+)", told.replace(":", ""))
        assert found is not None, told
        assert float(found[1]) <= 2.0

        # Levels: what the agent says as information is that in the journal.
        said = machine.run("journalctl -u ws@ws0 -o json --output-fields=PRIORITY -n 50")[1]
        assert '"PRIORITY":"6"' in said
        assert machine.run("journalctl -q -u ws@ws0 -p err")[1] == ""

        pid = value(machine, "MainPID")
        machine.run("systemctl reload ws@ws0", timeout=SLOW_S)
        assert value(machine, "MainPID") == pid

        # Names by systemd-resolved.
        def named() -> bool:
            status, told = machine.run("resolvectl query home.hearth.internal", check=False)
            return status == 0 and "10.99.0.1" in told

        wait_until("a name", named, SLOW_S)

        # systemd-networkd takes routes away that it does not know.
        machine.run("systemctl restart systemd-networkd", timeout=SLOW_S)
        wait_until("the tunnel beside networkd", reached, SLOW_S)
        assert "10.99.0.0/24" in machine.run("ip route show table all dev ws0")[1]

        # Killed, and stuck.
        pid = value(machine, "MainPID")
        machine.run("systemctl kill -s KILL ws@ws0")
        wait_until("a new life", lambda: restarted(pid), SLOW_S)
        wait_until("the tunnel after a kill", reached, SLOW_S)
        assert int(value(machine, "NRestarts")) >= 1
        pid = value(machine, "MainPID")
        machine.run(STUCK.format(pid))
        wait_until("the watchdog", lambda: restarted(pid), SLOW_S)
        wait_until("the tunnel after the watchdog", reached, SLOW_S)
        assert int(value(machine, "NRestarts")) >= 2

        machine.reboot()
        wait_until("the tunnel after a reboot", reached, SLOW_S)
        assert value(machine, "ActiveState") == "active"

        # An upgrade restarts it gently.
        pid = value(machine, "MainPID")
        machine.run("dpkg -i new.deb", timeout=3 * SLOW_S)  # it compiles its modules
        wait_until("the new version", lambda: restarted(pid), SLOW_S)
        wait_until("the tunnel after the upgrade", reached, SLOW_S)

        machine.run("dpkg --purge whalescale", timeout=SLOW_S)
        with pytest.raises(LabError):
            machine.run("ip link show ws0")
        assert "ws@" not in machine.run("systemctl list-units --all --no-legend 'ws@*'")[1]
        assert machine.run("ls /etc/whalescale")[1].split()
