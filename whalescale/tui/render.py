"""View -> renderables of rich. Pure: no clock, no terminal. Every colour stands beside a word."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Final

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.text import Text

from whalescale.status import Agent, Counters, Forwarding, Peer, Sandbox, Status
from whalescale.tui import members, multipath, paths, text
from whalescale.tui.paths import Row
from whalescale.tui.snapshot import UNKNOWN, View
from whalescale.tui.table import Column, Table

STATE_STYLES: Final = {"up": "green", "handshaking": "yellow", "idle": "cyan", "unreachable": "red"}
#: the detail pane has at least so many lines, or is not there
DETAIL_LINES: Final = 13
HEADER_LINES: Final = 6
#: a peer's last events in the detail pane, where there is room
EVENTS: Final = 6
#: cells of the detail pane beside a row's value: frame, name, padding
BESIDE: Final = 20
BESIDE_NAME: Final = 8
#: of the chosen peer's line: a bar from end to end, which `reverse` would break between the cells
CHOSEN: Final = "bold white on blue"
#: a terminal lower than this goes without the header's line of the shield
LOW: Final = 20
#: from which width of the terminal on a column of the live table is there
LIVE_COLUMNS: Final = {
    "peer": 0,
    "state": 0,
    "endpoint": 78,
    "handshake": 96,
    "RTT": 106,
    "sent": 38,
    "received": 52,
    "paths": 118,
    "allowed IPs": 130,
}
NO_PEERS: Final = Text("no peers yet: `ws peer add NAME --id ID --endpoint HOST:PORT`", style="dim")

HINTS: Final = "? help   q quit   space pause   ↑/k ↓/j choose a peer"
#: where there is a network; what does not fit is the part that everybody finds out
HINTS_NETWORK: Final = HINTS.replace("q quit", "m members   q quit")
#: of a terminal that is narrower than those
HINTS_NARROW: Final = "? help  m members  q quit  space pause  ↑ ↓ choose"
HELP: Final = (
    ("q, Ctrl-C", "quit"),
    ("space, p", "pause, and go on"),
    ("m", "members of the network, and back"),
    ("↑ ↓, k j", "choose a peer"),
    ("PgUp PgDn", "ten at a time"),
    ("Home End, g G", "first, last"),
    ("?, h", "this help"),
    ("", ""),
    ("up", "a session is established"),
    ("handshaking", "asking for a session"),
    ("idle", "no session, and nothing to send"),
    ("unreachable", "handshakes stay without an answer"),
    ("", ""),
    ("sent, received", "bytes on the wire (UDP payload), per second in bits"),
    ("shield", "drops in the kernel what cannot be ours, and floods"),
    ("strangers", "datagrams from where nothing was ever sent to"),
)


#: of paths; where the terminal is high enough
HELP_PATHS: Final = (
    ("", ""),
    ("healthy, spare", "a path that works, and waits until one in use fails"),
    ("healthy, relay", "a path over an anchor of the network"),
    ("idle 40 s", "a path that worked when it was last heard, so long ago"),
    ("degraded", "a path that loses or is slow: it gets less"),
    ("failed", "a path without an answer: it gets nothing, and is tried again"),
    ("queue", "how long a packet waits on the path behind others"),
    ("gaps", "packets missing in between; skipped: given up; late: came after that"),
)


def state(peer: Peer) -> Text:
    return Text(peer.state, style=STATE_STYLES[peer.state])


def _cell(value: str, style: str = "") -> Text:
    return Text(text.plain(value), style=style)


def drops(counters: Counters) -> str:
    """ "replay 3, auth 1", or "none" """
    both = {**counters.drops}
    for reason, count in counters.handshake_drops.items():
        both[f"handshake {reason}"] = count
    some = sorted(((c, r) for r, c in both.items() if c), reverse=True)
    return ", ".join(f"{text.plain(r)} {text.human_count(c)}" for c, r in some) or "none"


def offloads(agent: Agent) -> str:
    switches = {k: bool(getattr(agent.offloads, k)) for k in agent.offloads.__struct_fields__}
    off = [k for k, on in switches.items() if not on]
    if not off:
        return "all offloads"
    return "no offloads" if len(off) == len(switches) else f"offloads but {', '.join(off)}"


#: of a configuration with wireguard_private_key_file
NO_NODE_ID = "none: a plain WireGuard key, so one path to each peer"


def workers(agent: Agent) -> str:
    """ "2 workers, pinned to CPUs, busy polling 50 us"."""
    parts = [f"{agent.workers} worker{'s' if agent.workers != 1 else ''}"]
    if agent.pin_cpus:
        parts.append("pinned to CPUs")
    if agent.busy_poll_us:
        parts.append(f"busy polling {agent.busy_poll_us} us")
    return ", ".join(parts)


def confined(sandbox: Sandbox | None) -> str:
    """ "to its own files and calls", or what it lacks; "" where the agent does not tell."""
    if sandbox is None:
        return ""
    parts = [w for w, on in (("files", sandbox.landlock), ("calls", sandbox.seccomp)) if on]
    have = f"to its own {' and '.join(parts)}" if parts else "no"
    return f"{have} ({sandbox.reason})" if sandbox.reason else have


def post_quantum(peers: Sequence[Peer]) -> str:
    """ "post-quantum in 2 of 3 sessions (not: phone)"; "" without sessions."""
    up = [p for p in peers if p.post_quantum]
    if not up:
        return ""
    lack = [p.name for p in up if p.post_quantum != "yes"]
    named = ", ".join(lack[:3]) + (f" and {len(lack) - 3} more" if len(lack) > 3 else "")
    sessions = "session" if len(up) == 1 else "sessions"
    told = f"post-quantum in {len(up) - len(lack)} of {len(up)} {sessions}"
    return f"{told} (not: {named})" if lack else told


def relayed(status: Status) -> str:
    """As an anchor: "12 MB, 9.1k datagrams, 100 % by the kernel, 2 members bound now"; "" where
    nothing was or is."""
    relay, c = status.relay, status.counters
    if not relay.bindings and not c.relayed:
        return ""
    now = f", {relay.members} member{'' if relay.members == 1 else 's'} bound now"
    done = f"{text.human_bytes(c.relayed_bytes)}, {text.human_count(c.relayed)} datagrams"
    if c.relayed_kernel:
        done += f", {100 * c.relayed_kernel // max(c.relayed, 1)} % by the kernel"
    elif relay.kernel.reason:
        done += f", not by the kernel ({relay.kernel.reason})"
    return done + (now if relay.bindings else "")


def nat(status: Status) -> str:
    """ "192.168.1.2 seen as 5.6.7.8:40001 (endpoint-independent), port mapped"; "": nobody says
    anything. A hint."""
    filters = {
        "anybody": "anybody gets in",
        "ports": "other ports get in",
        "strict": "only answers get in",
    }
    parts = [
        f"{m.local} seen as itself"
        if m.kind == "none"
        else f"{m.local} seen as {', '.join(m.seen[:2])} ({m.kind})"
        for m in status.nat.mappings
    ]
    parts += [
        f"let in at {g.external}" if g.external == g.local else f"port mapped at {g.external}"
        for g in status.portmap.gateways
        if g.external is not None
    ]
    parts += [filters[status.nat.filtering]] if status.nat.filtering in filters else []
    parts += ["hairpin"] if status.nat.hairpin else []
    return "; ".join(parts)


def lan(status: Status) -> str:
    """ "2 members near, by eth0, wlan0"; "": not looked for, or in no network."""
    found = status.lan
    if not found.interfaces:
        return ""
    near = f"{found.near} member{'' if found.near == 1 else 's'} near"
    return f"{near}, by {', '.join(found.interfaces)}"


def forwarding(f: Forwarding) -> str:
    """ "192.168.7.0/24; an exit; all traffic by home, kill switch on"; "": none of it."""
    parts = [", ".join(f.networks), "an exit" if f.serves else ""]
    if f.exit:
        switch = "on" if f.kill_switch else "off"
        parts.append(f"all traffic by {f.exit}, kill switch {switch}")
    if f.problem:
        parts.append(f"trouble: {f.problem}")
    return "; ".join(p for p in parts if p)


def summary(status: Status) -> Table:
    """The agent, as `ws status` shows it."""
    a, c = status.agent, status.counters
    rows = {
        "interface": f"{a.interface}, up for {text.human_duration(a.uptime_s)}, process {a.pid}",
        "node ID": a.node_id or NO_NODE_ID,
        "fingerprint": a.fingerprint,
        "WireGuard key": a.wireguard_public_key,
        "addresses": ", ".join(dict.fromkeys(x for x in [*a.addresses, a.overlay_address] if x)),
        "listening": f"UDP port {a.listen_port}, MTU {a.mtu}{', anchor' if a.anchor else ''}",
        "data plane": f"{a.backend}, {a.cipher}, {workers(a)}, {offloads(a)}",
        "network": members.summary(status.network) if status.network.members else "",
        "NAT": nat(status),
        "LAN": lan(status),
        "keys": post_quantum(status.peers),
        "relayed": relayed(status),
        "forwarding": forwarding(status.forwarding),
        "bpf": paths.shield(status.bpf),
        "confined": confined(status.sandbox),
        "sent": f"{text.human_bytes(c.tx_bytes)}, {text.human_count(c.tx_packets)} packets",
        "received": f"{text.human_bytes(c.rx_bytes)}, {text.human_count(c.rx_packets)} packets",
        "dropped": drops(c),
        "cost": f"{text.human_bytes(a.rss_bytes)} memory, {a.cpu_seconds:.1f} s CPU",
        "configuration": a.config,
    }
    table = Table((Column(style="bold"), Column(fold=True)), head=False, margin=1)
    for name, value in rows.items():
        if not value:
            continue
        table.add_row(name, _cell(value))
    for warning in a.warnings:
        table.add_row(Text("warning", style="bold yellow"), _cell(warning))
    return table


def peers_table(peers: Sequence[Peer], width: int | None = None) -> RenderableType:
    """One line a peer, with totals: `ws peers`. What does not fit goes below it."""
    if not peers:
        return NO_PEERS
    names = ["peer", "state", "endpoint", "handshake", "RTT", "sent", "received", "allowed IPs"]
    least = {"endpoint": 78, "handshake": 96, "RTT": 106, "received": 52, "allowed IPs": 112}
    shown = [n for n in names if width is None or width >= least.get(n, 0)]
    table = _table(shown, fold="allowed IPs")
    below: list[RenderableType] = []
    for peer in peers:
        cells: dict[str, str | Text] = {
            "peer": _cell(peer.name),
            "state": state(peer),
            "endpoint": _cell(peer.endpoint or text.NONE),
            "handshake": text.human_ago(peer.last_handshake_s),
            "RTT": text.human_ms(peer.handshake_rtt_ms),
            "sent": text.human_bytes(peer.tx_bytes),
            "received": text.human_bytes(peer.rx_bytes),
            "allowed IPs": _cell(", ".join(peer.allowed_ips) or text.NONE),
        }
        table.add_row(*(cells[n] for n in shown))
        rest = [f"{n} {cells[n]}" for n in names if n not in shown]
        if rest:
            below.append(Text(text.plain(f"{peer.name}: {', '.join(rest)}"), style="dim"))
    return Group(table, Text(), *below) if below else table


def live_table(view: View, peers: Sequence[Peer], width: int) -> RenderableType:
    """One line a peer, with rates; what does not fit the width is left to the details."""
    if not view.current.peers:
        return NO_PEERS
    names = [name for name, least in LIVE_COLUMNS.items() if width >= least]
    table = _table(names)
    for peer in peers:
        chosen = peer.name == view.selected
        r = view.rates.get(peer.name, UNKNOWN)
        more = f" +{len(peer.allowed_ips) - 1}" if len(peer.allowed_ips) > 1 else ""
        cells: dict[str, str | Text] = {
            "peer": _cell(f"{'>' if chosen else ' '} {peer.name}"),
            "state": Text(peer.state) if chosen else state(peer),
            "sent": text.human_rate(r.tx_bps),
            "received": text.human_rate(r.rx_bps),
            "endpoint": _cell(peer.endpoint or text.NONE),
            "handshake": text.human_ago(peer.last_handshake_s),
            "RTT": text.human_ms(peer.handshake_rtt_ms),
            "paths": _used(peer),
            "allowed IPs": _cell((*peer.allowed_ips, text.NONE)[0] + more),
        }
        table.add_row(*(cells[n] for n in names), style=CHOSEN if chosen else "")
    return table


def _used(peer: Peer) -> str:
    """ "2 of 3" paths in use"""
    found = multipath.shown(peer.multipath) if peer.multipath is not None else []
    return f"{sum(p.usable for p in found)} of {len(found)}" if found else text.NONE


def _table(names: Sequence[str], fold: str = "") -> Table:
    least = {"peer": 10, "state": 11, "sent": 10, "received": 10, "RTT": 7}
    figures = {"RTT", "sent", "received"}
    return Table(Column(n, least.get(n, 1), n in figures, n == fold) for n in names)


def header(view: View, width: int, low: bool = False) -> Panel:
    a, c = view.current.agent, view.current.counters
    up = sum(p.state == "up" for p in view.current.peers)
    line = Text(no_wrap=True, overflow="ellipsis")
    line.append(f"↑ sent {text.human_rate(view.total.tx_bps)}", style="bold")
    wide = width >= 78
    line.append(f" ({text.human_bytes(c.tx_bytes)})   " if wide else "  ")
    line.append(f"↓ received {text.human_rate(view.total.rx_bps)}", style="bold")
    line.append(f" ({text.human_bytes(c.rx_bytes)})   " if wide else "  ")
    line.append(f"{'peers ' if wide else ''}up {up} of {len(view.current.peers)}")
    second = Text(no_wrap=True, overflow="ellipsis", style="dim")
    second.append(f"up {text.human_duration(a.uptime_s)}  {a.backend}  {a.cipher}  ")
    second.append(f"{text.human_bytes(a.rss_bytes)}  CPU {a.cpu_seconds:.1f} s")
    dropped = f"dropped {drops(c)}"
    if wide:
        second.append(f"  {dropped}")
    third = Text(no_wrap=True, overflow="ellipsis")
    if view.trouble:
        third.append(f"trouble: {text.plain(view.trouble)}", style="bold red")
    elif view.paused:
        third.append("paused: space goes on", style="bold yellow")
    else:
        own = text.plain(", ".join(a.addresses))
        third.append(own if wide else f"{own}  {dropped}", style="dim")
    lines = [line, second, third]
    if not low:
        guard = Text(paths.guard(view), style="dim", no_wrap=True, overflow="ellipsis")
        lines.insert(2, guard)
    # As a str it would be looked through for markup and emojis.
    title = Text(text.plain(f"whalescale {a.interface}"))
    return Panel(Group(*lines), title=title, title_align="left", width=width)


def _detail_rows(view: View, peer: Peer, width: int) -> list[Row]:
    history = view.history.get(peer.name, ())
    r = view.rates.get(peer.name, UNKNOWN)
    bars = max(min(width - 36, 120), 8)
    key = peer.id or peer.fingerprint or peer.wireguard_public_key or text.NONE
    candidates = ", ".join(peer.candidates) or text.NONE
    psk = "with" if peer.preshared_key else "without"
    mode = "extended" if peer.extended else "plain WireGuard"
    every = f"{peer.persistent_keepalive} s" if peer.persistent_keepalive else "off"
    found = [
        Row(
            0,
            "↑ sent",
            f"{text.sparkline([t for t, _ in history], bars)} {text.human_rate(r.tx_bps)}",
        ),
        Row(
            0,
            "↓ received",
            f"{text.sparkline([x for _, x in history], bars)} {text.human_rate(r.rx_bps)}",
        ),
        Row(
            0,
            "total",
            f"{text.human_bytes(peer.tx_bytes)} sent, {text.human_bytes(peer.rx_bytes)} received; "
            f"packets {text.human_count(peer.tx_packets)}, {text.human_count(peer.rx_packets)}",
        ),
        *_path_rows(view, peer, width),
        Row(4, "candidates", candidates),
        Row(4, "allowed IPs", ", ".join(peer.allowed_ips) or text.NONE),
        Row(
            0,
            "last seen",
            f"{text.human_ago(peer.last_received_s)}, {peer.staged} packets waiting",
        ),
        Row(0, "session", f"{mode}, {psk} preshared key, {quantum(peer)}keepalive {every}"),
        Row(5, "key", key),
    ]
    events = [e for e in view.current.events if e.peer in {peer.name, None}][-EVENTS:]
    for i, event in enumerate(events):
        # UTC, so that the picture is the same wherever it is drawn
        at = time.strftime("%H:%M:%S", time.gmtime(max(event.t, 0)))
        newest = len(events) - i <= 2
        found.append(Row(2 if newest else 7, f"{at} UTC", multipath.event(event.event)))
    return found


def quantum(peer: Peer) -> str:
    """ "post-quantum keys, ", or what stands in their place; "" without a session, or unasked."""
    if not peer.post_quantum or (peer.post_quantum == "no" and peer.pq == "off"):
        return ""
    said = {"yes": "", "pending": "asking for ", "no": "no "}[peer.post_quantum]
    return f"{said}post-quantum keys, "


def _path_rows(view: View, peer: Peer, width: int) -> list[Row]:
    inside = max(width - BESIDE, 1)
    if peer.multipath is None or not peer.multipath.paths:
        return paths.rows(view, peer, inside)
    own = {k: h for k, h in view.multipath_history.items() if k[0] == peer.name}
    bpf = view.current.bpf
    return multipath.top_rows(
        peer, inside, view.multipath_rates, own, lambda p: paths.of_path(bpf, p)
    )


def detail(view: View, width: int, lines: int | None = None) -> tuple[Panel, int]:
    """The chosen peer: the history of its rates, its paths. And its height: at most `lines`."""
    peer = next((p for p in view.current.peers if p.name == view.selected), None)
    if peer is None:
        none = Text("no peer", style="dim")
        return Panel(none, title=Text("peer"), title_align="left", width=width), 3
    found = paths.fitting(
        _detail_rows(view, peer, width), None if lines is None else max(lines - 2, 1)
    )
    names = max(len(row.name) for row in found)
    table = Table((Column(least=names, style="bold"), Column()), head=False, margin=1)
    inside = max(width - names - BESIDE_NAME, 1)
    if lines is not None:
        found = _unfolded(found, inside, lines - 2)
    for row in found:
        value = _cell(row.value) if isinstance(row.value, str) else row.value
        # What the frame would cut off without a word.
        value.no_wrap, value.overflow = True, "ellipsis"
        value.truncate(inside, overflow="ellipsis")
        table.add_row(row.name, value)
    title = Text.assemble(text.plain(peer.name), " ", state(peer))
    return Panel(table, title=title, title_align="left", width=width), len(found) + 2


def _unfolded(rows: Sequence[Row], inside: int, lines: int) -> list[Row]:
    """What is wider than the pane goes on below, as far as there are lines to spare."""
    spare = lines - len(rows)
    found: list[Row] = []
    for row in rows:
        parts = _pieces(row.value, inside) if isinstance(row.value, str) else []
        if 1 < len(parts) <= spare + 1:
            spare -= len(parts) - 1
            found.append(Row(row.rank, row.name, parts[0]))
            found += (Row(row.rank, "", part) for part in parts[1:])
        else:
            found.append(row)
    return found


def _pieces(value: str, width: int) -> list[str]:
    """At commas and semicolons, where it has any; a key wherever the line ends."""
    if len(value) <= width:
        return [value]
    parts = [p for p in re.split(r"(?<=[,;]) ", value) if p]
    if any(len(p) > width for p in parts):
        return [value[i : i + width] for i in range(0, len(value), width)]
    found = [parts[0]]
    for part in parts[1:]:
        if len(found[-1]) + 1 + len(part) <= width:
            found[-1] += f" {part}"
        else:
            found.append(part)
    return found


def help_panel(width: int, height: int) -> Panel:
    table = Table((Column(style="bold"), Column(fold=True)), head=False, gap=4, margin=2)
    whole = (*HELP, *HELP_PATHS)
    for key, meaning in whole if len(whole) + 2 + HEADER_LINES <= height else HELP:
        style = STATE_STYLES.get(key) or multipath.STATE_STYLES.get(key.partition(",")[0], "")
        table.add_row(Text(key, style=style), meaning)
    return Panel(table, title=Text("help: any key closes it"), title_align="left", width=width)


def visible(view: View, lines: int) -> Sequence[Peer]:
    """The part of the peers that fits, with the chosen one in it."""
    peers = view.current.peers
    if len(peers) <= lines:
        return peers
    at = next((i for i, p in enumerate(peers) if p.name == view.selected), 0)
    start = min(max(at - lines // 2, 0), len(peers) - lines)
    return peers[start : start + lines]


def screen(view: View, width: int, height: int) -> RenderableType:
    """The whole live view for a terminal of this size."""
    if view.help:
        return Group(header(view, width), help_panel(width, height))
    low = height < LOW
    parts: list[RenderableType] = [header(view, width, low)]
    # The table's head takes two lines, the hints one.
    left = height - HEADER_LINES + low - 3
    hints = HINTS_NETWORK if view.current.network.members else HINTS
    if len(hints) > width:
        hints = HINTS_NARROW
    hint = Text(hints, style="dim", no_wrap=True, overflow="ellipsis")
    if view.members:
        return Group(*parts, members.body(view.current, width, left + 2), hint)
    count = len(view.current.peers)
    pane: Panel | None = None
    if left >= DETAIL_LINES + 2 and count:
        # The peers get a third of the lines, the pane the rest, as far as either needs them.
        most = max(left - max(min(count, left // 3), 2), DETAIL_LINES)
        pane, lines = detail(view, width, most)
        left -= lines
    parts.append(live_table(view, visible(view, max(left, 1)), width))
    if pane is not None:
        parts.append(pane)
    parts.append(hint)
    return Group(*parts)


def members_screen(view: View, width: int, height: int) -> RenderableType:
    """`ws members --watch`."""
    if view.help:
        return help_panel(width, height)
    return Group(members.body(view.current, width, height - 2), _trouble(view), _leave())


def _trouble(view: View) -> Text:
    if view.trouble:
        return Text(f"trouble: {text.plain(view.trouble)}", style="bold red")
    return Text("paused: space goes on" if view.paused else "", style="bold yellow")


def _leave() -> Text:
    return Text("? help   q quit   space pause", style="dim", no_wrap=True, overflow="ellipsis")


def paths_screen(view: View, names: Sequence[str], width: int, height: int) -> RenderableType:
    """`ws paths --watch`: of the peers with these names; empty: of all."""
    if view.help:
        return help_panel(width, height)
    return Group(paths_of(view, names, width), _trouble(view), _leave())


def paths_of(view: View, names: Sequence[str], width: int) -> RenderableType:
    """Every path of the peers with these names; empty: of all. With rates, if there are any yet."""
    peers = [p for p in view.current.peers if not names or p.name in names]
    if not peers:
        return NO_PEERS
    rates = view.multipath_rates or None
    parts: list[RenderableType] = []
    for peer in peers:
        parts += [Text()] if parts else []
        parts.append(multipath.of_peer(peer, width, rates))
    return Group(*parts)


def once(view: View, width: int) -> RenderableType:
    """The same without a terminal: every peer, the chosen one's details, no hints."""
    parts: list[RenderableType] = [
        header(view, width),
        live_table(view, view.current.peers, width),
    ]
    if view.current.peers:
        parts.append(detail(view, width)[0])
    return Group(*parts)
