"""Where the network cards' interrupts go, beside where the workers run: for `ws doctor`.

What is read: /sys/class/net (cards and their interrupts), /proc/interrupts (how many, and those of
cards that have none of their own named there), /proc/irq (which CPUs may be interrupted), and the
agent's threads (/proc/PID/task), whether or not `pin_cpus` was granted.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from whalescale.cli.parts import Check

NAME: Final = "interrupts"
WORKER: Final = "ws-worker"
#: what one card's queues have to do before it matters where
BUSY: Final = 1000


@dataclass(frozen=True, slots=True)
class Line:
    """An interrupt of a card's queue: `cpus` may have it, `count` came since the start."""

    number: int
    card: str
    count: int
    cpus: frozenset[int]


def numbers(text: str) -> frozenset[int]:
    """Of a list as the kernel writes them: "0-3,8". ValueError."""
    found: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first:
            found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)


def listed(cpus: Iterable[int]) -> str:
    """The same list of them."""
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and cpu == runs[-1][1] + 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def _cpus(cpus: Iterable[int]) -> str:
    text = listed(cpus)
    return f"CPU {text}" if text.isdecimal() else f"CPUs {text}"


def _numbers_in(path: Path) -> frozenset[int]:
    """Empty: it is not told."""
    with contextlib.suppress(OSError, ValueError):
        return numbers(path.read_text())
    return frozenset()


def table(proc: Path) -> dict[int, tuple[int, str]]:
    """Number: how often since the start, and the end of its line, which has its name."""
    with contextlib.suppress(OSError):
        first, *lines = (proc / "interrupts").read_text().splitlines()
        width = len(first.split())
        found = {}
        for line in lines:
            head, _, rest = line.partition(":")
            words = rest.split()
            if head.strip().isdecimal() and len(words) > width:
                counts = [int(w) for w in words[:width] if w.isdecimal()]
                found[int(head)] = (sum(counts), " ".join(words[width:]))
        return found
    return {}


def cards(sys_fs: Path) -> list[str]:
    """What is no interface of software alone, and up."""
    found = []
    for path in sorted(sys_fs.glob("class/net/*/device")):
        state = path.parent / "operstate"
        with contextlib.suppress(OSError):
            if state.read_text().strip() != "down":
                found.append(path.parent.name)
    return found


def _own(device: Path) -> set[int]:
    """A virtio card's are its parent's."""
    for folder in (device, device.parent):
        found = {int(p.name) for p in folder.glob("msi_irqs/*") if p.name.isdecimal()}
        if found:
            return found
    return set()


def lines(proc: Path, sys_fs: Path) -> Iterator[Line]:
    known = table(proc)
    for card in cards(sys_fs):
        device = (sys_fs / "class/net" / card / "device").resolve()
        own = _own(device)
        if not own:
            names = re.compile(rf"(?<![\w.]){re.escape(card)}(?!\w)|(?<!\w){device.name}(?!\w)")
            own = {number for number, (_, name) in known.items() if names.search(name)}
        for number in sorted(own & known.keys()):
            folder = proc / "irq" / str(number)
            cpus = _numbers_in(folder / "effective_affinity_list")
            cpus = cpus or _numbers_in(folder / "smp_affinity_list")
            if cpus and known[number][0]:
                yield Line(number, card, known[number][0], cpus)


def workers(proc: Path, pid: int) -> list[frozenset[int]]:
    """Of each worker of that agent the CPUs that it may run on."""
    found = []
    for task in sorted((proc / str(pid) / "task").glob("*")):
        with contextlib.suppress(OSError, ValueError):
            if (task / "comm").read_text().strip() == WORKER:
                text = (task / "status").read_text()
                told = re.search(r"^Cpus_allowed_list:\s*(\S+)", text, re.M)
                if told is not None:
                    found.append(numbers(told[1]))
    return found


def check(pid: int, proc: Path = Path("/proc"), sys_fs: Path = Path("/sys")) -> Check:
    """`pid`: of the running agent, 0 without one."""
    online = _numbers_in(sys_fs / "devices/system/cpu/online")
    if len(online) < 2:
        return Check(NAME, "ok", "one CPU takes all of them")
    found = list(lines(proc, sys_fs))
    if not found:
        return Check(NAME, "ok", "no network card of this machine has any of its own")
    kept = [cpus for cpus in workers(proc, pid) if cpus and cpus < online] if pid else []
    taken = frozenset[int]().union(*kept)
    where = []
    for card in dict.fromkeys(line.card for line in found):
        cpus = frozenset[int]().union(*(line.cpus for line in found if line.card == card))
        where.append(f"{card}'s go to {_cpus(cpus)}")
    told = ", ".join(where)
    told += f"; workers are kept on {_cpus(taken)}" if kept else "; workers run on any CPU"
    free = online - taken
    # What may go elsewhere too will, by the kernel's own choice.
    met = [line for line in found if line.cpus <= taken]
    if met and free:
        names = ", ".join(dict.fromkeys(line.card for line in met))
        return Check(
            NAME, "warn", told, _move(met, free),
            f"a worker gives way to {names} for each packet that comes in",
        )  # fmt: skip
    for card in dict.fromkeys(line.card for line in found):
        own = [line for line in found if line.card == card]
        busy = sorted((line for line in own if line.count >= BUSY), key=lambda line: line.number)
        if len(busy) > 1 and len(frozenset[int]().union(*(line.cpus for line in own))) == 1:
            return Check(
                NAME, "warn", told, _spread(busy, sorted(free or online)),
                f"all {len(busy)} busy queues of {card} wait for one CPU",
            )  # fmt: skip
    return Check(NAME, "ok", told)


def _move(met: list[Line], free: frozenset[int]) -> str:
    some = " ".join(str(line.number) for line in met)
    return (
        f"`for i in {some}; do echo {listed(free)} | sudo tee /proc/irq/$i/smp_affinity_list; done`"
        "; irqbalance, where it runs, is told by IRQBALANCE_BANNED_CPULIST"
    )


def _spread(busy: list[Line], cpus: list[int]) -> str:
    each = "; ".join(
        f"echo {cpus[i % len(cpus)]} | sudo tee /proc/irq/{line.number}/smp_affinity_list"
        for i, line in enumerate(busy)
    )
    return f"`{each}`, or `sudo apt install irqbalance`"
