"""Where a card's interrupts go, by trees of files like the kernel's."""

from __future__ import annotations

from pathlib import Path

import pytest

from whalescale.cli import interrupts

HEAD = "           CPU0       CPU1       CPU2       CPU3\n"
PID = 77


def put(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


class Machine:
    """Four CPUs; `eth0` is a card on PCI, `tap0` none at all."""

    def __init__(self, root: Path) -> None:
        self.proc, self.sys_fs, self.pci = root / "proc", root / "sys", root / "sys/devices/pci0"
        self.text = HEAD
        put(self.sys_fs, "devices/system/cpu/online", "0-3")
        put(self.sys_fs, "class/net/tap0/operstate", "up")
        self.card("eth0")

    def card(self, name: str, device: str = "0000:00:03.0", state: str = "up") -> None:
        put(self.sys_fs, f"class/net/{name}/operstate", state)
        (self.pci / device).mkdir(parents=True, exist_ok=True)
        (self.sys_fs / f"class/net/{name}/device").symlink_to(self.pci / device)

    def irq(self, number: int, count: int, cpus: str, name: str, msi: str = "0000:00:03.0") -> None:
        each = f"{count:>11}{0:>11}{0:>11}{0:>11}"
        self.text += f" {number}:{each}  PCI-MSIX-{msi}   1-edge      {name}\n"
        put(self.proc, "interrupts", f"{self.text}NMI:          0          0          0          0")
        put(self.proc, f"irq/{number}/smp_affinity_list", "0-3")
        put(self.proc, f"irq/{number}/effective_affinity_list", cpus)
        if msi:
            put(self.pci, f"{msi}/msi_irqs/{number}", "msix")

    def worker(self, thread: int, cpus: str, comm: str = "ws-worker") -> None:
        put(self.proc, f"{PID}/task/{thread}/comm", comm)
        put(self.proc, f"{PID}/task/{thread}/status", f"Name:\tx\nCpus_allowed_list:\t{cpus}")

    def check(self) -> interrupts.Check:
        return interrupts.check(PID, self.proc, self.sys_fs)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    made.irq(30, 0, "0", "eth0-config")
    made.irq(31, 50_000, "1", "eth0-TxRx-0")
    made.irq(32, 50_000, "2", "eth0-TxRx-1")
    made.irq(40, 9_000_000, "3", "nvme0q1", "0000:00:09.0")
    return made


def test_lists_of_cpus() -> None:
    assert interrupts.numbers("0-2,5\n") == {0, 1, 2, 5}
    assert interrupts.numbers("") == frozenset()
    assert interrupts.listed([5, 0, 2, 1]) == "0-2,5"


def test_workers_anywhere(machine: Machine) -> None:
    machine.worker(78, "0-3")
    found = machine.check()
    assert found.verdict == "ok"
    assert found.detail == "eth0's go to CPUs 1-2; workers run on any CPU"


def test_a_worker_where_the_card_interrupts(machine: Machine) -> None:
    machine.worker(77, "0-3", "ws")
    machine.worker(78, "0")
    machine.worker(79, "1")
    found = machine.check()
    assert found.verdict == "warn"
    assert found.detail == "eth0's go to CPUs 1-2; workers are kept on CPUs 0-1"
    # Of the card's, not the disk's; to CPUs without a worker.
    command = "for i in 31; do echo 2-3 | sudo tee /proc/irq/$i/smp_affinity_list; done"
    assert command in found.fix
    assert "eth0" in found.lost


def test_workers_beside_the_card(machine: Machine) -> None:
    machine.worker(78, "0")
    machine.worker(79, "3")
    assert machine.check().verdict == "ok"


def test_a_worker_on_every_cpu(machine: Machine) -> None:
    """Then there is nowhere to go."""
    for cpu in range(4):
        machine.worker(78 + cpu, str(cpu))
    assert machine.check().verdict == "ok"


@pytest.mark.parametrize(("count", "verdict"), [(50_000, "warn"), (20, "ok")])
def test_all_queues_on_one_cpu(tmp_path: Path, count: int, verdict: str) -> None:
    machine = Machine(tmp_path)
    machine.irq(31, 50_000, "0", "eth0-rx-0")
    machine.irq(32, count, "0", "eth0-tx-0")
    found = machine.check()
    assert found.verdict == verdict
    if verdict == "warn":
        assert "echo 0 | sudo tee /proc/irq/31/smp_affinity_list; echo 1 | sudo tee" in found.fix
        assert found.lost == "all 2 busy queues of eth0 wait for one CPU"


def test_a_virtio_card(tmp_path: Path) -> None:
    """Its interrupts are those of the PCI function that its device is in."""
    machine = Machine(tmp_path)
    machine.card("eth1", "0000:00:05.0/virtio2")
    machine.irq(38, 5, "3", "virtio2-input.0", "0000:00:05.0")
    assert "eth1's go to CPU 3" in machine.check().detail


def test_a_card_that_is_known_by_its_name_alone(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.card("end0", "fd580000.ethernet")
    machine.irq(25, 5, "0", "end0", "")
    machine.irq(26, 5, "1", "end01", "")
    assert "end0's go to CPU 0;" in machine.check().detail


def test_cards_that_are_down_and_older_kernels(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.card("eth9", "0000:00:09.0", "down")
    machine.irq(40, 5, "1", "eth9-0", "0000:00:09.0")
    assert "no network card" in machine.check().detail
    machine.irq(31, 5, "1", "eth0-0")
    (machine.proc / "irq/31/effective_affinity_list").unlink()
    assert "eth0's go to CPUs 0-3" in machine.check().detail


def test_one_cpu_and_nothing_known(tmp_path: Path) -> None:
    assert interrupts.check(0, tmp_path, tmp_path).verdict == "ok"
    put(tmp_path, "devices/system/cpu/online", "0")
    assert interrupts.check(0, tmp_path, tmp_path).detail == "one CPU takes all of them"
