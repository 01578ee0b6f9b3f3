"""`ws paths PEER --set PATH`: the request `pin_path`, from what a user names to the driver's pins.

{"peer": name, "path": id, interface or local address, and any of "disabled": bool,
"tier": 0..255 or null, "weight_cap": 0..1; or "reset": true}. What is not named stays as it was.
Answered with {"peer", "paths"}: the paths that were meant, as the status shows them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from whalescale.protocol.paths.types import PathState, PathStatus, Pin
from whalescale.runtime import snapshot
from whalescale.runtime.control_socket import ControlError
from whalescale.runtime.tunnel import Peer, Tunnel, format_endpoint

TIER_MAX: Final = 255


def pin(tunnel: Tunnel, params: dict[str, Any]) -> dict[str, Any]:
    """Carry out one request. ControlError: it cannot be, and nothing was changed.

    What is said of an interface or a local address holds for its paths to come too.
    """
    peer = _peer(tunnel, params.get("peer"))
    before = tunnel.driver.path_status(peer.handle)
    meant, group = matching(before, params.get("path"), peer.spec.name)
    wanted = [(p, changed(p.pin, params)) for p in meant]
    fewer = any(new.disabled and not p.pin.disabled for p, new in wanted)
    if fewer and not any(_works(p) for p in before if p not in meant):
        raise ControlError(
            "refused",
            f"nothing would be left: no other path to {peer.spec.name} works and is enabled",
            "enable another first, or remove the peer",
        )
    try:
        one_by_one = wanted
        if group:
            general = wanted[0][1]
            tunnel.driver.pin_paths(peer.handle, general, **group)
            one_by_one = [(p, new) for p, new in wanted if new != general]
        for path, new in one_by_one:
            tunnel.driver.pin_path(peer.handle, path.id, new)
    except KeyError:
        raise ControlError("not_found", "the path went away just now", "try again") from None
    after = {p.id: p for p in tunnel.driver.path_status(peer.handle)}
    return {
        "peer": peer.spec.name,
        "paths": [snapshot.path(after.get(p.id) or replace(p, pin=new)) for p, new in wanted],
    }


def _works(path: PathStatus) -> bool:
    return path.state in (PathState.HEALTHY, PathState.DEGRADED) and not path.pin.disabled


def _peer(tunnel: Tunnel, name: object) -> Peer:
    for peer in tunnel.peers.values():
        if peer.spec.name == name:
            return peer
    names = ", ".join(p.spec.name for p in list(tunnel.peers.values())[:8]) or "none"
    raise ControlError("not_found", f"no peer {name!r:.80}", f"its peers: {names}")


def matching(
    paths: list[PathStatus], wanted: object, peer: str
) -> tuple[list[PathStatus], dict[str, str]]:
    """The paths that `wanted` names, and by what: one by its id ({}), else all of an interface or
    local address (arguments of Driver.pin_paths)."""
    if not isinstance(wanted, str):
        raise ControlError("usage", f"path is {wanted!r:.40}", "an id, interface or local address")
    if by_id := [p for p in paths if str(p.id) == wanted]:
        return by_id, {}
    if wanted and (of_interface := [p for p in paths if p.interface == wanted]):
        return of_interface, {"interface": wanted}
    local = [p for p in paths if p.local and wanted in (p.local.ip, format_endpoint(p.local))]
    if local and local[0].local:
        return local, {"local": local[0].local.ip}
    known = ", ".join(f"{p.id} {p.interface}".rstrip() for p in paths)
    fix = f"there are: {known}" if known else f"{peer} has no paths: is its session up?"
    raise ControlError("not_found", f"{peer} has no path {wanted!r:.80}", fix)


def changed(pin: Pin, params: dict[str, Any]) -> Pin:
    """`pin` with what the request names. ControlError: out of range, or nothing named."""
    names = [name for name in Pin._fields if name in params]
    if params.get("reset") is True:
        if names:
            raise ControlError("usage", "reset takes everything back", "leave the others away")
        return Pin()
    if not names:
        raise ControlError("usage", "nothing to change", f"name one of {', '.join(Pin._fields)}")
    disabled, tier, cap = (params.get(n, getattr(pin, n)) for n in Pin._fields)
    if not isinstance(disabled, bool):
        raise ControlError("usage", f"disabled is {disabled!r:.40}", "write true or false")
    if tier is not None and (type(tier) is not int or not 0 <= tier <= TIER_MAX):
        fix = f"a number from 0 (first) to {TIER_MAX}, or none"
        raise ControlError("usage", f"tier is {tier!r:.40}", fix)
    if type(cap) not in (int, float) or not 0 <= cap <= 1:
        raise ControlError("usage", f"weight_cap is {cap!r:.40}", "a share from 0 to 1")
    return Pin(disabled, tier, float(cap))
