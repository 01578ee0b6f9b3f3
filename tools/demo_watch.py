"""What the demos of a network ask the agents while they run."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Sequence
from typing import Final, Generic, NamedTuple, TypeVar

from tools.demo_record import Sampler
from tools.demo_view import connect
from whalescale.cli.client import Connection
from whalescale.cli.ending import CliError

LOOK_S: Final = 0.1
A = TypeVar("A")


class End(NamedTuple):
    """An agent, by its host's name, its interface and the folder of its control socket."""

    name: str
    interface: str
    folder: str


class Watch(Sampler, Generic[A]):
    """Asks every agent ten times a second. One that does not answer is connected to anew."""

    def __init__(self, ends: Sequence[End]) -> None:
        super().__init__(LOOK_S)
        self._ends = ends
        self._open: dict[str, Connection] = {}

    @abstractmethod
    def ask(self, end: End, connection: Connection) -> A | None:
        """CliError: it does not answer."""

    @abstractmethod
    def take(self, end: End, at: float, answer: A | None) -> None:
        """None: there was no answer."""

    def sample(self) -> bool:
        for end in self._ends:
            answer = self._answer(end)
            self.take(end, time.monotonic(), answer)
        return True

    def ended(self) -> None:
        for connection in self._open.values():
            connection.__exit__()

    def _answer(self, end: End) -> A | None:
        try:
            if end.name not in self._open:
                self._open[end.name] = connect(end.interface, end.folder)
            return self.ask(end, self._open[end.name])
        except CliError:
            gone = self._open.pop(end.name, None)
            if gone is not None:
                gone.__exit__()
            return None
