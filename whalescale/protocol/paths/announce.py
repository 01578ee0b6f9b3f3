"""PATH_ANNOUNCE, both ways: which addresses we have, and what is taken of the peer's list."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from whalescale.protocol.buckets import Bucket
from whalescale.protocol.candidates import NO_LINK, nowhere, parse, reachable
from whalescale.protocol.limits import NS_PER_S
from whalescale.protocol.paths.frames import MAX_ENTRIES, Announce, Entry, EntryKind
from whalescale.protocol.places import Endpoint, LocalLink, Standing

LEAST_INTERVAL: Final = NS_PER_S
#: then after so long, and ever twice as long: whoever got none of the first ones
REPEAT: Final = 60 * NS_PER_S
REPEAT_MOST: Final = 3600 * NS_PER_S
#: again this long after the first: it may get lost
EARLY: Final = (NS_PER_S, 4 * NS_PER_S)


class Announcer:
    """Our list. `due_at` says when `next` has one to send."""

    __slots__ = (
        *("_early", "_entries", "_inside", "_made_of", "_numbers", "_repeat", "_sent_at"),
        "_serial",
        "due_at",
    )

    def __init__(self, inside: Callable[[str], bool] = nowhere) -> None:
        """`inside`: of IPs, whether no peer can be there."""
        self._inside = inside
        self._numbers: dict[str, int] = {}
        self._entries: tuple[Entry, ...] = ()
        self._made_of: object = None
        self._serial = 0
        self._sent_at: int | None = None
        self._early: list[int] = []
        self._repeat = REPEAT
        self.due_at: int | None = None

    def number(self, interface: str) -> int:
        """What the peer knows this interface by; NO_LINK: it is none of those announced."""
        return self._numbers.get(interface, NO_LINK)

    def begin(self, now: int) -> None:
        """A session begins, or the list is another: now, and again soon."""
        soonest = now if self._sent_at is None else max(now, self._sent_at + LEAST_INTERVAL)
        self._early = [soonest + after for after in reversed(EARLY)]
        self._repeat = REPEAT
        self.due_at = soonest if self.due_at is None else min(self.due_at, soonest)

    def stop(self) -> None:
        self.due_at = None
        self._early = []

    def update(
        self,
        links: tuple[LocalLink, ...],
        port: int,
        observed: tuple[tuple[str, Endpoint], ...],
        now: int,
        mapped: tuple[tuple[str, Endpoint], ...] = (),
    ) -> None:
        """`observed`: (interface, where the peer sees us from there). `mapped`: (interface, where
        its gateway maps our port, as that says)."""
        links = tuple(link for link in links if not self._inside(link.ip))
        observed = tuple(o for o in observed if not self._inside(o[1].ip))
        mapped = tuple(m for m in mapped if not self._inside(m[1].ip))
        made_of = (links, port, observed, mapped)
        if self._made_of == made_of:
            return
        self._made_of = made_of
        present = {link.interface for link in links}
        for interface in [i for i in self._numbers if i not in present]:
            del self._numbers[interface]
        for link in links:
            if link.interface not in self._numbers:
                free = (n for n in range(NO_LINK) if n not in self._numbers.values())
                number = next(free, None)
                if number is not None:
                    self._numbers[link.interface] = number
        found: dict[Endpoint, Entry] = {}
        named = [link for link in links if link.standing is not Standing.DEPRECATED]
        for link in sorted(named, key=lambda link: link.standing):
            endpoint = Endpoint(link.ip, port)
            if reachable(endpoint):
                number = self.number(link.interface)
                found.setdefault(endpoint, Entry(endpoint, EntryKind.INTERFACE, number))
        told = [(m, EntryKind.MAPPED) for m in mapped]
        told += [(o, EntryKind.OBSERVED) for o in observed]
        for (interface, endpoint), kind in told:
            seen = Endpoint(endpoint.ip, endpoint.port)
            address = parse(seen.ip)
            if reachable(seen) and address is not None and not address.is_link_local:
                number = self.number(interface)
                found.setdefault(seen, Entry(seen, kind, number))
        entries = tuple(sorted(found.values(), key=_worth)[:MAX_ENTRIES])
        if entries != self._entries:
            self._entries = entries
            self._serial = (self._serial + 1) % 256
            if self.due_at is not None:
                self.begin(now)

    def next(self, now: int) -> Announce | None:
        """`due_at` may be up."""
        if self.due_at is None or self.due_at > now:
            return None
        while self._early and self._early[-1] <= now:
            self._early.pop()
        self._sent_at = now
        if self._early:
            self.due_at = self._early[-1]
        else:
            self.due_at = now + self._repeat
            self._repeat = min(2 * self._repeat, REPEAT_MOST)
        return Announce(self._serial, self._entries) if self._entries else None


def _worth(entry: Entry) -> int:
    """Which go first where there are too many: what a NAT shows to the world stands for a whole
    interface, a link-local address helps only on its own link."""
    address = parse(entry.endpoint.ip)
    assert address is not None
    if entry.kind is not EntryKind.INTERFACE:
        return 0
    if address.is_link_local:
        return 3
    return 2 if address.is_private else 1


class Listener:
    """The peer's list."""

    __slots__ = ("_bucket", "_serial")

    def __init__(self, bucket: Bucket) -> None:
        """`bucket`: of the lists that are taken."""
        self._serial: int | None = None
        self._bucket = bucket

    def forget(self) -> None:
        """The peer restarted: its serials begin anew."""
        self._serial = None

    def wants(self, serial: int, now: int) -> tuple[bool, str]:
        """Whether to look at the list at all, and if not the reason to count or "".

        Asked before it is decoded: that costs a hundred times as much.
        """
        if self._serial is not None and not 0 < (serial - self._serial) % 256 < 128:
            return False, ""  # a repetition, or overtaken
        if not self._bucket.take(now):
            return False, "announce_rate"
        return True, ""

    def take(self, announce: Announce) -> tuple[tuple[Entry, ...], int]:
        """One that was wanted: (the new list, how many addresses were left out)."""
        self._serial = announce.serial
        good = tuple(e for e in announce.entries if reachable(e.endpoint))
        return good, len(announce.entries) - len(good)
