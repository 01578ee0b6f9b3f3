"""What is known of a peer that cannot be spoken to, in words: for ping, status and doctor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from whalescale.cli.ending import plain
from whalescale.status import Peer, Status

#: peers in one line
NAMED: Final = 3


def of(status: Status) -> list[tuple[str, str]]:
    """(peer's name, sentence)."""
    return [(plain(p.name), plain(text)) for p in status.peers for text in p.trouble]


def refused_sources(status: Status) -> str:
    """ "" unless packets came in whose sender's address is not its own to use."""
    count = status.counters.drops.get("source", 0)
    if not count:
        return ""
    worst = sorted((p for p in status.peers if p.wrong_sources), key=lambda p: -p.wrong_sources)
    who = ", ".join(plain(p.name) for p in worst[:NAMED]) or "a peer"
    if len(worst) > NAMED:
        who += f" and {len(worst) - NAMED} more"
    packets = "1 packet" if count == 1 else f"{count} packets"
    return (
        f"{packets} from {who} came with a source address that is not in its allowed_ips here: "
        "is its address there another one, or its allowed_ips here wrong?"
    )


def strangers(status: Status) -> Sequence[str]:
    """The last ones who asked with an unknown key."""
    found = [plain(e.event) for e in status.events if e.event.startswith("stranger ")]
    return list(dict.fromkeys(found))[-3:]


def of_ping(before: Status, after: Status, peer: Peer) -> list[str]:
    """Why a ping stays without an answer. `peer`: as it is afterwards."""
    if peer.trouble:
        return [plain(text) for text in peer.trouble]
    if peer.state != "up":
        return [
            f"there is no session with {plain(peer.name)} ({peer.state}), and nothing known why"
        ]
    found = []
    old = next((p for p in before.peers if p.name == peer.name), None)
    if old is None or peer.wrong_sources > old.wrong_sources:
        found.append(refused_sources(after))
    if old is None or peer.tx_packets > old.tx_packets:
        found.append(
            f"the session with {plain(peer.name)} stands, but no answer comes back: do its "
            "allowed_ips for this host have this host's addresses, and does its firewall let "
            "pings in?"
        )
    return found or [f"no packet went to {plain(peer.name)}: do its allowed_ips have this address?"]


def nat(status: Status) -> list[str]:
    """How others see us: a hint."""
    said = {
        "none": "others see {local} itself: no NAT, though a firewall may be there",
        "endpoint-independent": "others see {local} as {seen}, all of them: holes can be punched",
        "by destination": "each sees {local} at another port ({seen}): holes can be punched only "
        "where the other side's NAT lets any port in",
        "several addresses": "others see {local} at several addresses ({seen})",
        "unknown": "one other sees {local} as {seen}: it takes two on different networks to tell "
        "more",
    }
    let_in = {
        "anybody": "datagrams get in of who was never sent to",
        "ports": "datagrams get in from other ports of who was sent to, not of strangers",
        "strict": "no datagram got in but answers",
    }
    found = [
        said[m.kind].format(local=m.local, seen=", ".join(m.seen[:3])) for m in status.nat.mappings
    ]
    if text := let_in.get(status.nat.filtering):
        found.append(text)
    if status.nat.hairpin:
        found.append("the router sends back what comes from inside (hairpin)")
    return found


def portmap(status: Status) -> list[str]:
    """What came of asking gateways to map our port: no trouble, but worth knowing."""
    return [
        (
            f"{g.gateway} ({g.interface}) lets {g.local} in ({g.protocol})"
            if g.external == g.local
            else f"{g.gateway} ({g.interface}) sends {g.external} on to us ({g.protocol})"
        )
        + ("; a member got in by it" if g.dialled else "")
        if g.external is not None
        else f"none at {g.gateway} ({g.interface}): {g.problem or g.state}"
        for g in status.portmap.gateways
    ]
