"""What the network's demo writes down: what each agent said of each member, and when.

Times are seconds of CLOCK_MONOTONIC.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tools import demo_watch
from tools.demo_watch import End
from whalescale.cli.client import Connection

#: what an agent may say of a member
UNKNOWN, KNOWN, TALKS, SELF = "unknown", "known", "talks", "self"
#: what is said of an agent that does not run, or belongs no more
OFF, OUT = "off", "out"


@dataclass(slots=True)
class Observer:
    """One agent's words over time. Each list: from when on, what; only changes."""

    name: str
    members: dict[str, list[tuple[float, str]]] = field(default_factory=dict)
    state: list[tuple[float, str]] = field(default_factory=lambda: [(0.0, OFF)])
    alive: list[tuple[float, int]] = field(default_factory=list)
    #: member and IP address: when it was first given as a place of that member
    places: dict[tuple[str, str], float] = field(default_factory=dict)

    def take(self, at: float, view: dict[str, Any] | None) -> None:
        """`view`: what `ws members --json` shows; None: the agent does not answer."""
        network = view["network"] if view else None
        said = OFF if network is None else "on" if network["belongs"] else OUT
        _change(self.state, at, said)
        if view is None or network is None:
            for words in self.members.values():
                _change(words, at, UNKNOWN)
            return
        _change(self.alive, at, int(network["anchors_alive"]))
        rows = {m["name"]: m for m in view["members"]} if network["belongs"] else {}
        for name in {*self.members, *rows}:
            _change(self.members.setdefault(name, []), at, _said(rows.get(name)))
        for name, row in rows.items():
            for place in row["places"]:
                key = name, place["endpoint"].rpartition(":")[0]
                self.places.setdefault(key, at)

    def first(self, member: str, words: Sequence[str], since: float = 0.0) -> float | None:
        """When it first said one of these of the member, not before `since`."""
        said = UNKNOWN
        for at, word in self.members.get(member, ()):
            if at > since and said in words:
                return since
            said = word
            if at >= since and word in words:
                return at
        return since if said in words else None

    def now(self, member: str) -> str:
        words = self.members.get(member)
        return words[-1][1] if words else UNKNOWN


def _change(words: list[Any], at: float, word: object) -> None:
    if not words or words[-1][1] != word:
        words.append((at, word))


def _said(row: dict[str, Any] | None) -> str:
    if row is None:
        return UNKNOWN
    if row["self"]:
        return SELF
    return TALKS if row["session"] else KNOWN


class Watch(demo_watch.Watch[dict[str, Any]]):
    """Asks every agent what it knows."""

    def __init__(self, ends: Sequence[End]) -> None:
        super().__init__(ends)
        self.observers = {end.name: Observer(end.name) for end in ends}

    def ask(self, end: End, connection: Connection) -> dict[str, Any] | None:
        view: dict[str, Any] = connection.call("network", {"op": "view"})
        return view

    def take(self, end: End, at: float, answer: dict[str, Any] | None) -> None:
        self.observers[end.name].take(at, answer)
