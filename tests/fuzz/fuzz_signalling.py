"""libFuzzer (atheris) on RELAY_MESSAGE and its payloads, and the node behind them.

Input: records of an operation byte, a length byte and that many bytes.
  op % 5 = 0: a frame as it stands, from a hostile member's session
         = 1: the piece as the payload of a FORWARD for another member: we are the carrier
         = 2: the piece as the payload of a FORWARDED, kind by its first byte: we are the end
         = 3: the same, a call that the hostile member signs anew
         = 4: the clock goes on by that many bytes' value in ms
Invariants: nothing is raised; what is taken has one encoding; frames go to members with a session
only, are no longer than what they answer, and name the true sender; datagrams to places that nobody
vouches for are two in a minute each, and new destinations five a second, sixty a minute.
"""

from __future__ import annotations

import contextlib
import sys

import atheris

with atheris.instrument_imports(include=["whalescale"]):
    from whalescale.identity import Identity
    from whalescale.protocol.control import ControlError
    from whalescale.protocol.fresh import Fresh
    from whalescale.protocol.guest import Arrival
    from whalescale.protocol.mesh import records
    from whalescale.protocol.nat import signalling
    from whalescale.protocol.nat.guest import Membership, Signalling
    from whalescale.protocol.nat.signalling import Call, Kind, Message, Refused, Role, What
    from whalescale.protocol.places import Endpoint, LocalLink

NOW = 10**12
US, HOSTILE, OTHER, AWAY = (Identity(bytes([n]) * 32) for n in (5, 6, 7, 8))
#: by handle
PEERS = {1: HOSTILE, 2: OTHER, 3: AWAY}


class View:
    def __init__(self, handle: int) -> None:
        self.handle = handle
        self.node_id = PEERS[handle].node_id
        self.endpoint = Endpoint("203.0.113.7", 7)

    def has_usable_session(self, now: int) -> bool:
        return self.handle == 1


class Host:
    """Sessions with the first two."""

    def __init__(self) -> None:
        self.frames: list[tuple[int, bytes]] = []
        self.sent: list[tuple[int, Endpoint, bool]] = []
        self.now = NOW
        self.fresh = Fresh()

    peers = tuple(PEERS)

    def peer(self, handle: int) -> View:
        return View(handle)

    def find_node(self, node_id: bytes) -> int | None:
        return next((h for h, who in PEERS.items() if who.node_id == node_id), None)

    def node_of(self, handle: int) -> bytes:
        return PEERS[handle].node_id

    def speaks(self, handle: int) -> bool:
        return handle in (1, 2)

    def frame(self, handle: int, frame: bytes) -> None:
        self.frames.append((handle, frame))

    def punch(self, peer: int, remotes: list[tuple[Endpoint, bool]], now: int) -> None:
        self.sent += [(now, *remote) for remote in remotes]

    def carried(self, peer: int, carrier: int, data: bytes, reply: object, now: int) -> None:
        assert peer in PEERS
        assert len(data) in (64, 92, 148)

    def is_direct(self, peer: int, now: int) -> bool:
        return peer == 2

    def is_relay(self, peer: int, remote: Endpoint) -> bool:
        return False

    def observations(self) -> list[object]:
        return []

    def drop(self, reason: str) -> None:
        pass

    def rearm(self, peer: int) -> None:
        pass

    def random(self, count: int) -> bytes:
        return bytes(count)


def check(piece: bytes) -> None:
    """What is taken has one encoding."""
    try:
        message = signalling.decode(piece)
    except ControlError:
        return
    again = signalling.encode(message)
    assert piece[: len(again)] == again
    if isinstance(message, Message):
        try:
            call = signalling.decode_call(message.payload)
        except ControlError:
            return
        raw = signalling.encode_call(call, b"", b"", lambda _label, _data: bytes(64))
        assert raw[:-64] == message.payload[:-64]


def signed(piece: bytes, now: int) -> bytes:
    """A call of the hostile member's, as far as the piece is one."""
    places: list[signalling.Place] = []
    for n in range(min(len(piece) // 6, 8)):
        at = piece[6 * n : 6 * n + 6]
        endpoint = Endpoint(".".join(map(str, at[:4])), int.from_bytes(at[4:], "little"))
        if signalling.tellable(endpoint) and endpoint not in [p.endpoint for p in places]:
            places.append(signalling.Place(endpoint))
    role = Role.ANSWER if len(piece) % 2 else Role.CALL
    stamp, token = now.to_bytes(12, "big"), (bytes(8) if len(piece) % 3 else piece[:8].ljust(8))
    call = Call(role, stamp, token, tuple(places))

    def sign(label: bytes, said: bytes) -> bytes:
        return records.sign(HOSTILE.seed, label, said)

    return signalling.encode_call(call, HOSTILE.node_id, US.node_id, sign)


def check_sent(host: Host) -> None:
    times: dict[Endpoint, list[int]] = {}
    fresh = []
    for at, remote, vouched in host.sent:
        before = times.setdefault(remote, [])
        if not before or at - before[-1] > 120 * 10**9:
            fresh.append(at)
        if not vouched and len(before) >= 2:
            assert at - before[-2] >= 60 * 10**9
        before.append(at)
    for n, at in enumerate(fresh):
        assert n < 5 or at - fresh[n - 5] >= 10**9
        assert n < 60 or at - fresh[n - 60] >= 60 * 10**9


def one_input(data: bytes) -> None:
    now = NOW
    host = Host()
    guest = Signalling(host)  # type: ignore[arg-type]
    guest.handshakes = True
    for handle in PEERS:
        guest.peer_added(handle, now)
    guest._speaking = {1, 2}
    members = {who.node_id for who in (US, HOSTILE, OTHER, AWAY)}
    guest.give(
        Membership(
            US.node_id,
            members.__contains__,
            lambda: {OTHER.node_id},
            lambda label, data: records.sign(US.seed, label, data),
            records.verify,
            lambda: now,
        )
    )
    guest.locals_changed([LocalLink("192.168.1.2", 2, "eth0", 1500)], 51820, now)
    at = Arrival(0, None, None, 200)
    while len(data) >= 2:
        op, size, piece = data[0] % 5, data[1], data[2 : 2 + data[1]]
        data = data[2 + size :]
        peer, frame = 1, piece
        if op == 0 and piece[:2] == b"\x18\x01":  # the node has looked at these
            check(piece)
        elif op == 0:
            continue
        elif op == 1 and piece:
            frame = signalling.encode(Message(What.FORWARD, piece[0], OTHER.node_id, piece))
        elif op in (2, 3) and piece:
            peer = 2
            seen = Endpoint("198.51.100.9", 9) if piece[0] & 1 else None
            kind, payload = piece[0] % 4, piece[1:] or b"?"
            if op == 3:
                kind, payload = Kind.CALL, signed(piece, now)
            frame = signalling.encode(Message(What.FORWARDED, kind, HOSTILE.node_id, payload, seen))
        elif op == 4:
            now += int.from_bytes(piece[:2], "little") * 1_000_000
        sent = len(host.frames)
        if frame and op != 4:
            with contextlib.suppress(ControlError):
                guest.receive_frame(peer, frame, at, now)
            assert len(host.frames) <= sent + 1
        for to, answer in host.frames[sent:]:
            assert to in (1, 2)
            message = signalling.decode(answer)
            if isinstance(message, Refused):
                assert len(answer) <= len(frame)
            elif message.what is What.FORWARDED:
                assert message.node == HOSTILE.node_id
        for handle in PEERS:
            due = guest.peer_deadline(handle)
            if due is not None and due <= now:
                guest.peer_timeout(handle, now)
        assert len(host.frames) < 2_000
    check_sent(host)


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
