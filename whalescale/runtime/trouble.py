"""Why a peer has no session, as far as it is known here: what was seen, and what it may be."""

from __future__ import annotations

from typing import Final

from whalescale.protocol.limits import NS_PER_S
from whalescale.protocol.types import PeerStatus, PostQuantum
from whalescale.runtime.tunnel import Peer, format_endpoint

#: an answer that takes longer than this is none
LATE: Final = int(1.5 * NS_PER_S)


def of(peer: Peer, core: PeerStatus, now: int) -> list[str]:
    """Sentences for a user; none where nothing was asked, or an answer may still come."""
    found = [
        f"{host} does not resolve ({why}): is the name right, and does this host have DNS?"
        for host, why in (peer.resolver.unresolved.items() if peer.resolver is not None else ())
    ]
    if core.unanswered_since is None:
        if core.handshake_attempts and core.endpoint is None and not found:
            found.append("where it is, is not known here: it has to call, or give it endpoints")
        return found
    waited = now - core.unanswered_since
    if waited < LATE:
        return found
    where = format_endpoint(core.endpoint) or "it"
    if core.answered_by is not None:
        found.append(
            f"{format_endpoint(core.answered_by)} is there and answers, but opens no session: it "
            "does not know this host's ID (its `ws logs` then tells of a stranger; `ws peer add` "
            "there), or has another preshared key"
        )
        return found
    times = "1 request" if core.unanswered == 1 else f"{core.unanswered} requests"
    port = core.endpoint.port if core.endpoint is not None else "its"
    silent = "" if peer.node_id is not None else ", does it know this host's public key"
    found.append(
        f"no answer at all from {where} to {times} in {waited // NS_PER_S} s: is the address "
        f"right, does it run there, do firewalls and routers let UDP port {port} in{silent}?"
    )
    return found


def held(peer: Peer, mode: PostQuantum, keys: str) -> list[str]:
    """Why a peer with a session is sent no packets. `keys`: PostQuantumKeys.state."""
    if mode is not PostQuantum.REQUIRE or keys != "no":
        return []
    why = (
        "it is a plain WireGuard peer"
        if peer.node_id is None
        else "it does not offer them: is its version older, or its pq off?"
    )
    return [
        f'packets for it wait: pq = "require" here, and it has no post-quantum keys ({why}); '
        'pq = "auto" or "off" for this peer sends them without'
    ]
