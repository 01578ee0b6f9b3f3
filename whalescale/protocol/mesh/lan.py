"""Members on a link of ours: what is said there in the clear, and what is made of what is heard.

Pure. `runtime/lan.py` carries it, by multicast DNS (docs/mesh.md section 7.2). Nothing that is
heard is believed: it is a place where a member may be, which a handshake shows or does not. So what
counts is what it may cost: a hash where it is not of our network, a hash a member at most
ANNOUNCED_PER_SECOND times a second where it is, and bounded memory.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from whalescale.protocol.buckets import Bucket
from whalescale.protocol.candidates import on_link
from whalescale.protocol.limits import NS_PER_S
from whalescale.protocol.mesh.records import (
    PLACE_BYTES,
    Place,
    PlaceKind,
    RecordError,
    decode_place,
    encode_place,
)
from whalescale.protocol.places import Endpoint, LocalLink, Standing

VERSION: Final = 1
NONCE_BYTES: Final = 8
TAG_BYTES: Final = 8
PLACES_MAX: Final = 4
_HEAD: Final = 2 + NONCE_BYTES
#: the key of a TXT record that it stands behind
KEY: Final = b"w="
#: members that are kept, and announcements of one: it may be on two links, or have begun anew
MEMBERS_MAX: Final = 256
EACH_MAX: Final = 3
#: announcements of our network that are looked at
ANNOUNCED_PER_SECOND: Final = 10
ANNOUNCED_BURST: Final = 300
#: how long one holds, whatever it says of itself (seconds)
TTL_MIN: Final = 10
TTL_MAX: Final = 4500


class LanError(ValueError):
    """Not an announcement; the text is the counter."""


def encode(network_id: bytes, node_id: bytes, nonce: bytes, places: Sequence[Endpoint]) -> bytes:
    """What a member says of itself. `nonce`: random, another one for each link and day.

    ValueError: no places, or one that no member could have.
    """
    if not 0 < len(places) <= PLACES_MAX or len(nonce) != NONCE_BYTES:
        raise ValueError("one to four places, and a nonce")
    body = bytes((VERSION, len(places))) + nonce
    body += b"".join(encode_place(Place(place, PlaceKind.LAN)) for place in places)
    data = body + _tag(network_id, body) + _tag(network_id, body, node_id)
    decode(data)
    return data


@dataclass(frozen=True, slots=True)
class Announcement:
    places: tuple[Endpoint, ...]
    body: bytes
    network_tag: bytes
    member_tag: bytes

    def is_of(self, network_id: bytes) -> bool:
        return self.network_tag == _tag(network_id, self.body)

    def member(self, network_id: bytes, members: Iterable[bytes]) -> bytes | None:
        """Which of these says it."""
        tag, body = self.member_tag, self.body
        return next((n for n in members if _tag(network_id, body, n) == tag), None)


def decode(data: bytes) -> Announcement:
    """LanError: lan_length, lan_version or lan_claim (a place that cannot be)."""
    if len(data) < _HEAD:
        raise LanError("lan_length")
    if data[0] != VERSION:
        raise LanError("lan_version")
    count = data[1]
    end = _HEAD + count * PLACE_BYTES
    if not 0 < count <= PLACES_MAX or len(data) != end + 2 * TAG_BYTES:
        raise LanError("lan_length")
    places = []
    for at in range(_HEAD, end, PLACE_BYTES):
        try:
            place = decode_place(data[at : at + PLACE_BYTES])
        except RecordError:
            raise LanError("lan_claim") from None
        if place.kind is not PlaceKind.LAN:
            raise LanError("lan_claim")
        places.append(place.endpoint)
    tags = data[end:]
    return Announcement(tuple(places), data[:end], tags[:TAG_BYTES], tags[TAG_BYTES:])


def find(text: bytes) -> bytes:
    """The announcement in the data of a TXT record (RFC 6763 section 6). LanError: none."""
    at = 0
    while at < len(text):
        end = at + 1 + text[at]
        if end > len(text):
            raise LanError("lan_length")
        if text[at + 1 : end].startswith(KEY):
            return text[at + 1 + len(KEY) : end]
        at = end
    raise LanError("lan_claim")


def _tag(network_id: bytes, body: bytes, node_id: bytes = b"") -> bytes:
    """Who does not know the network cannot make it, and sees nothing in it. All that is said is in
    it, so what was said on another link with other places cannot be said again here."""
    return hashlib.blake2s(
        body + node_id, key=network_id, digest_size=TAG_BYTES, person=b"wslan v1"
    ).digest()


def own_places(links: Iterable[LocalLink], ifindex: int, port: int) -> tuple[Endpoint, ...]:
    """What we say on a link: its own addresses and no others; best first."""
    usable = [
        link
        for link in links
        if link.ifindex == ifindex
        and link.standing is not Standing.DEPRECATED
        and not (link.link_local or ip_address(link.ip).is_loopback)
    ]
    usable.sort(key=lambda link: (link.standing, ":" in link.ip))
    return tuple(Endpoint(link.ip, port) for link in usable if port)[:PLACES_MAX]


@dataclass(frozen=True, slots=True)
class _Heard:
    data: bytes
    places: tuple[Endpoint, ...]
    until: int


class Vicinity:
    """Who was heard. Times are ns of CLOCK_BOOTTIME."""

    def __init__(
        self, network_id: bytes, node_id: bytes, members: Callable[[], Iterable[bytes]]
    ) -> None:
        """`members`: node IDs of all who belong, ours too."""
        self._network_id = network_id
        self._node_id = node_id
        self._members = members
        self._heard: dict[bytes, list[_Heard]] = {}
        self._links: tuple[LocalLink, ...] = ()
        self._bucket = Bucket(ANNOUNCED_PER_SECOND, ANNOUNCED_BURST)
        #: what was not taken, by reason
        self.drops: Counter[str] = Counter()

    def set_links(self, links: Iterable[LocalLink]) -> None:
        """Where we are: what is on none of them is no place to try."""
        self._links = tuple(links)

    def hear(self, text: bytes, ttl_s: int, now: int) -> bool:
        """The data of a TXT record came; 0 s: it is said no more. True: places are others now."""
        try:
            data = find(text)
            said = decode(data)
            if not said.is_of(self._network_id):
                raise LanError("lan_network")
            known = next(
                (n for n, h in self._heard.items() if any(x.data == data for x in h)), None
            )
            if known is not None:
                return self._keep(known, data, said.places, ttl_s, now)
            if not ttl_s:
                return False
            if not self._bucket.take(now):
                raise LanError("lan_rate")
            node_id = said.member(self._network_id, self._members())
            if node_id is None:
                raise LanError("lan_member")
            if node_id == self._node_id:
                return False
            if not self._near(said.places):
                raise LanError("lan_elsewhere")
            self._expire(now)
            if node_id not in self._heard and len(self._heard) >= MEMBERS_MAX:
                raise LanError("lan_room")
            return self._keep(node_id, data, said.places, ttl_s, now)
        except LanError as refusal:
            self.drops[str(refusal)] += 1
            return False

    def _keep(
        self, node_id: bytes, data: bytes, places: tuple[Endpoint, ...], ttl_s: int, now: int
    ) -> bool:
        before = self._heard.get(node_id, [])
        others = [h for h in before if h.data != data]
        if ttl_s:
            until = now + min(max(ttl_s, TTL_MIN), TTL_MAX) * NS_PER_S
            # The latest last; one that is said again keeps its place.
            kept = [h if h.data != data else _Heard(data, places, until) for h in before]
            if len(kept) == len(others):
                kept.append(_Heard(data, places, until))
            self._heard[node_id] = kept[-EACH_MAX:]
        elif others:
            self._heard[node_id] = others
        else:
            self._heard.pop(node_id, None)
        return len(others) == len(before) or not ttl_s

    def _near(self, places: Iterable[Endpoint]) -> tuple[Endpoint, ...]:
        own = {link.ip for link in self._links}
        return tuple(
            place
            for place in places
            if place.ip not in own
            and any(on_link(n.ip, n.prefix_length, place.ip) for n in self._links)
        )

    def _expire(self, now: int) -> None:
        for node_id, heard in list(self._heard.items()):
            left = [h for h in heard if h.until > now]
            if left:
                self._heard[node_id] = left
            else:
                del self._heard[node_id]

    def near(self, now: int) -> dict[bytes, tuple[Endpoint, ...]]:
        """Where members are on our links, what they said last first."""
        self._expire(now)
        found = {
            node_id: tuple(dict.fromkeys(p for h in reversed(heard) for p in self._near(h.places)))[
                :PLACES_MAX
            ]
            for node_id, heard in self._heard.items()
        }
        return {node_id: places for node_id, places in found.items() if places}
