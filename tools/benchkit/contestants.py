"""A contestant that runs: two hosts in a lab, and the ends of a tunnel between them.

The tunnel has 10.77.0.1/24 and .2/24 inside.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Self

from tools.netlab import Host, Lab, LabError
from tools.peers import HostEnd, Peer, outside

PORT = 51820
INSIDE = ("10.77.0.1", "10.77.0.2")


class Stage(ABC):
    """Up once it is made, or it leaves nothing behind. A context manager that takes it down."""

    def __init__(self, seed: int = 1) -> None:
        """LabError, SkipError, ValueError: it does not come up."""
        self.lab = Lab(seed)
        self.ends: tuple[HostEnd, ...] = ()
        try:
            self._bring_up()
        except BaseException:
            self.close()
            raise

    @abstractmethod
    def _bring_up(self) -> None:
        """Returns once packets come through."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.lab.close()

    def reach(self, host: Host, target: str, count: int, through: str) -> None:
        """A session stands and packets pass. LabError: none do."""
        words = ("ping", "-n", f"-c{count}", "-i0.2", "-w12", target)
        if host.run(*words, check=False).returncode != 0:
            raise LabError(f"no ping {through}{last_words(self.ends)}")


def introduce(
    one: HostEnd,
    two: HostEnd,
    address: Callable[[Host], str],
    node_id: Callable[[HostEnd, HostEnd], str | None],
) -> None:
    """Start both, each told of the other. `address` of a host outside; `node_id(END, OTHER)` that
    an end is told, None for the WireGuard key alone.
    """
    for end, other in ((one, two), (two, one)):
        at = outside(address(other.host), other.port)
        inside = (f"{other.inside()}/32",)
        end.start(Peer(other.public_key, inside, at, node_id=node_id(end, other)))


def toml_lines(keys: Mapping[str, str]) -> list[str]:
    """Of a table with these keys: what is neither true nor false nor a number is a string."""

    def value(text: str) -> str:
        return text if text in {"true", "false"} or text.isdigit() else f'"{text}"'

    return [f"{k} = {value(v)}" for k, v in keys.items()]


def last_words(ends: Iterable[HostEnd]) -> str:
    """What the tunnels said last, for an error; "" where they said nothing."""
    return "".join(f"; {e.interface} said: {_tail(e)}" for e in ends if _tail(e))


def _tail(end: HostEnd) -> str:
    lines = end.process.log().strip().splitlines() if end.process is not None else []
    return lines[-1][-200:] if lines else ""
