"""What this tunnel shall have in the kernel, what it has, and what mends the difference.

Others change a host behind our back: systemd-networkd drops rules that it did not make, admins
flush tables, `ip link set ws0 down` takes IPv6 addresses and routes along. `Keeper` looks when the
kernel tells of a change and now and then besides, puts back what is ours, says it once, and waits
longer and longer where somebody takes it away again and again. What is not ours it leaves alone:
other addresses, other routes, an interface that was set down.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final

from whalescale.config import IPV6_MTU_MIN
from whalescale.runtime.background import Background
from whalescale.runtime.errors import AgentError
from whalescale.runtime.marks import Marks
from whalescale.runtime.netlink import MAIN_TABLE, Interface, LinkState, Netlink, Route, Rule
from whalescale.runtime.notices import Notices, PortChanged
from whalescale.runtime.part import Part
from whalescale.runtime.routes import Holders

log = logging.getLogger(__name__)

#: one act of an admin is many notices
SETTLE_S: Final = 0.2
#: a look without any notice
SWEEP_S: Final = 30.0
#: A look costs 0.1 to 0.3 ms of CPU a route, and a network of 1,000 members has 2,000: so one
#: without a notice takes half a percent of a core at most, and after notices it takes a tenth.
SWEEP_PER_ROUTE_S: Final = 0.05
SETTLE_PER_ROUTE_S: Final = 0.001
SETTLE_MOST_S: Final = 3.0
#: between two looks at what the kernel tells nobody of
GLANCE_S: Final = 3.0
#: the first look is not to hold up the start
START_S: Final = 1.0
#: an interface that is gone may have been removed: then the data plane tells it before this
GONE_S: Final = 2.0
#: so often something is put back at once, then after 1, 2, 4... seconds
AT_ONCE: Final = 3
LONGEST_S: Final = 300.0
#: one time of these is forgotten after so long
FORGET_S: Final = 20.0
#: named in one line
NAMED: Final = 6
GONE: Final = (
    "interface {} was moved to another network namespace: it is served there, but its addresses "
    "and routes are not looked after; to have it here again, stop the agent and start it anew"
)
#: without these most hosts carry traffic all the same
HELPFUL: Final = ("_set_marks", "_make_valid", "_set_queue")


@dataclass(frozen=True, slots=True)
class Wanted:
    mtu: int
    #: packets, at least
    queue: int
    addresses: frozenset[Interface]
    routes: frozenset[Route]
    rules: frozenset[Rule]
    #: (mark, UDP port) of the table in `Marks`, None for no table
    marks: tuple[int, int] | None
    #: those of the addresses whose network's route, which the kernel made, is looked after
    connected: frozenset[Interface] = frozenset()
    #: of our datagrams, 0: none
    fwmark: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    link: LinkState
    #: those that stay
    addresses: frozenset[Interface]
    routes: frozenset[Route]
    rules: frozenset[Rule]
    marks: tuple[int, int] | None
    #: the marks as they were put last
    marks_put: tuple[int, int] | None
    #: net.ipv4.conf.all.src_valid_mark, and whether it was ever set by us
    valid: bool
    valid_before: bool


@dataclass(frozen=True, slots=True)
class Repair:
    """One thing that is not as it shall be."""

    what: str
    item: Any = field(compare=False)
    act: str  # the method of Keeper that mends it
    #: False: we want something new, nobody took it away
    taken: bool = field(default=True, compare=False)


def repairs(wanted: Wanted, found: Found) -> list[Repair]:
    """What is to be done, in this order. An interface that is down takes no routes."""
    todo: list[Repair] = []
    if found.link.mtu != wanted.mtu:
        todo.append(Repair(f"MTU {wanted.mtu}", wanted.mtu, "_set_mtu"))
    if found.link.queue < wanted.queue:
        todo.append(Repair(f"txqueuelen {wanted.queue}", wanted.queue, "_set_queue"))
    versions = (4, 6) if found.link.ipv6 else (4,)
    if found.link.link_local:  # IPv6 was taken away altogether and came back anew
        todo.append(Repair("no link-local address", wanted.addresses, "_no_link_local"))
    if found.link.up:
        if not found.link.carrier:
            todo.append(Repair("carrier", None, "_set_carrier"))
        todo += [
            Repair(f"address {a}", a, "_add_address")
            for a in sorted(wanted.addresses - found.addresses, key=str)
            if a.version in versions
        ]
        todo += [
            Repair(f"route {a.network}", a, "_add_connected")
            for a in sorted(wanted.connected & found.addresses, key=str)
            if a.version in versions and Route(a.network) not in found.routes
        ]
        todo += [
            Repair(f"route {r.network}{_in_table(r)}", r, "_add_route")
            for r in sorted(wanted.routes - found.routes, key=str)
            if r.network.version in versions
        ]
    todo += [
        Repair(str(r), r, "_add_rule")
        for r in sorted(wanted.rules - found.rules, key=lambda r: (r.table != MAIN_TABLE, str(r)))
        if r.version in versions
    ]
    if found.marks != wanted.marks:
        taken = found.marks_put == wanted.marks
        todo.append(Repair("the nftables table of marks", wanted.marks, "_set_marks", taken))
    if wanted.marks is not None and not found.valid:
        what = "net.ipv4.conf.all.src_valid_mark = 1"
        todo.append(Repair(what, None, "_make_valid", found.valid_before))
    return todo


def _in_table(route: Route) -> str:
    return "" if route.table == MAIN_TABLE else f" (table {route.table})"


@dataclass(slots=True)
class _Past:
    """How often one thing was mended of late, and when it may be next."""

    count: int = 0
    last: float = 0.0
    due: float = 0.0
    #: that it is taken away again and again was said
    told: bool = False


class Patience:
    """Lets a repair pass at once, and ever more rarely where it has to be made again and again."""

    def __init__(self) -> None:
        self._past: dict[Repair, _Past] = {}

    def due(self, repair: Repair, now: float) -> float:
        """When it may be made: seconds on the clock of `now`."""
        past = self._past.get(repair)
        return now if past is None else past.due

    def made(self, repair: Repair, now: float) -> float:
        """It was tried now. Returns the pause that begins, when that is to be told; else 0."""
        if len(self._past) > 4096:
            self._past.clear()
        past = self._past.setdefault(repair, _Past(last=now))
        past.count = max(0, past.count - int((now - past.last) / FORGET_S)) + 1
        past.told = past.told and past.count > 1
        past.last = now
        pause = min(2.0 ** (past.count - AT_ONCE), LONGEST_S) if past.count >= AT_ONCE else 0.0
        past.due = now + pause
        if past.count > AT_ONCE + 1 and not past.told:
            past.told = True
            return pause
        return 0.0

    def forget(self) -> None:
        self._past.clear()


class Keeper(Part):
    """`wanted()` is asked at each look. `tell(text)`: an event for `ws status`.

    `changing` is held while something is looked at and mended: nobody else changes it meanwhile.
    """

    def __init__(
        self,
        netlink: Netlink,
        ifindex: int,
        name: str,
        marks: Marks,
        wanted: Callable[[], Wanted],
        changing: asyncio.Lock,
        tell: Callable[[str], None] = lambda _: None,
        notices: Notices | None = None,
        background: Background | None = None,
        endpoints: Callable[[], set[str]] = set,
    ) -> None:
        """`background`: where it watches from the start on; without, it looks when it is asked.

        `endpoints`: where peers are, without zones.
        """
        if notices is not None:
            notices.on(PortChanged, lambda _: self.soon())
        self._netlink = netlink
        self._ifindex = ifindex
        self._name = name
        self._marks = marks
        self._wanted = wanted
        self._changing = changing
        self._tell = tell
        self._background = background
        self._endpoints = endpoints
        self._patience = Patience()
        self._dirty = asyncio.Event()
        #: what is not as it shall be and stays so, by what it is about
        self._problems: dict[str, str] = {}
        #: those of the problems that a reload fails for
        self._failed: list[str] = []
        self._marked = False
        self._connected = frozenset[Interface]()
        self._next: float | None = None
        #: of the interface, at the last look
        self._routes = 0

    @property
    def problems(self) -> list[str]:
        """What could not be mended, or is not ours to mend: lines for `ws status`."""
        return list(self._problems.values())

    def soon(self) -> None:
        """Look, after the moment that more changes may take."""
        self._dirty.set()

    def started(self) -> None:
        if self._background is not None:
            self._background.spawn(self.watch())

    async def close(self) -> None:
        self._marks.close()

    # looking

    async def restore(self) -> list[str]:
        """All of it at once, an interface that was set down too; `changing` is held by the caller.

        Returns what was put back. AgentError: something could not be.
        """
        self._patience.forget()
        done: list[str] = []
        link = await self._netlink.link_state(self._ifindex)
        if link is not None and not link.up:
            try:
                await self._netlink.raise_link(self._ifindex)
            except OSError as e:
                raise AgentError(
                    e.strerror or str(e), f"see `ip link show {link.name}` and `ws logs`"
                ) from None
            done.append("up")
        done += await self.mend()
        if self._failed:
            raise AgentError("; ".join(self._failed[:NAMED]), "`ws doctor` may tell why")
        return done

    async def differences(self) -> list[str]:
        """What `restore` would put back."""
        found = await self._find()
        if found is None:
            return []
        down = [] if found.link.up else ["up"]
        return down + [r.what for r in self._todo(found)]

    def _todo(self, found: Found) -> list[Repair]:
        """As `repairs`; of the routes that the kernel makes those alone that were there once."""
        wanted = self._wanted()
        self._connected |= {a for a in wanted.connected if Route(a.network) in found.routes}
        return repairs(replace(wanted, connected=wanted.connected & self._connected), found)

    async def look(self) -> None:
        """Mend what is due now."""
        async with self._changing:
            await self.mend()

    async def mend(self) -> list[str]:
        """As `look`, where the caller holds `changing`. Returns what was put back."""
        now = asyncio.get_running_loop().time()
        self._next = None
        self._failed = []
        done: list[str] = []
        tried: set[Repair] = set()
        failed: set[Repair] = set()
        problems: dict[str, str] = {}
        # An MTU below 1280 has taken IPv6 away, which is there again once that is mended. And what
        # failed is tried once more: it was found half-way through a change, perhaps.
        for _ in range(3):
            found = await self._find()
            if found is None:
                problems = {"gone": GONE.format(self._name)}
                self._failed = list(problems.values())
                break
            problems |= self._about(found) | await self._swallowed(found)
            todo = [r for r in self._todo(found) if r not in tried or r in failed]
            for repair in todo:
                again = repair in failed
                failed.discard(repair)
                tried.add(repair)
                if not await self._mend_one(repair, now, done, problems) and not again:
                    failed.add(repair)
            if not todo:
                break
        self._marked = self._wanted().marks is not None
        self._say(done, problems)
        return done

    async def _mend_one(
        self, repair: Repair, now: float, done: list[str], problems: dict[str, str]
    ) -> bool:
        """False: it was tried and failed."""
        due = self._patience.due(repair, now)
        if due > now:
            self._again(due)
            if (failed := self._problems.get(repair.what)) is not None:
                problems[repair.what] = failed
            return True
        pause = self._patience.made(repair, now)
        if (before := problems.pop(repair.what, None)) in self._failed:
            self._failed.remove(str(before))
        try:
            await getattr(self, repair.act)(repair.item)
        except OSError as e:
            problems[repair.what] = _failed(repair, e)
            if repair.act not in HELPFUL:
                self._failed.append(problems[repair.what])
            self._again(max(self._patience.due(repair, now), now + GLANCE_S))
            return False
        if not repair.taken:
            return True
        done.append(repair.what)
        if pause:
            log.warning(
                "%s on %s is taken away again and again: put back after %.0f s the next time, "
                "then ever more rarely",
                repair.what,
                self._name,
                pause,
            )
        return True

    def _again(self, at: float) -> None:
        self._next = at if self._next is None else min(self._next, at)

    def _about(self, found: Found) -> dict[str, str]:
        """What is seen, and is not ours to change."""
        link, told = found.link, {}
        if not link.up:
            told["down"] = (
                f"interface {link.name} was set down: `ip link set {link.name} up` or "
                f"`ws reload -i {self._name}` brings it back"
            )
        if link.name != self._name:
            told["name"] = (
                f"interface {self._name} is now named {link.name}: the tunnel works on, and "
                f"`ws` and `wg` still know it as {self._name}"
            )
        wanted = self._wanted()
        if (
            not link.ipv6
            and link.mtu == wanted.mtu
            and any(a.version == 6 for a in wanted.addresses)
        ):
            told["ipv6"] = _no_ipv6(link)
        return told

    async def _swallowed(self, found: Found) -> dict[str, str]:
        """Routes through the tunnel that others made, and that our own datagrams take."""
        wanted, told = self._wanted(), dict[str, str]()
        own = {a.network for a in wanted.addresses}
        holders = Holders({r.network for r in found.routes - wanted.routes} - own)
        if not holders:
            return told
        for endpoint in sorted(self._endpoints()):
            # What is longer elsewhere goes first: the kernel knows.
            if not (around := holders.of(endpoint)) or (
                await self._netlink.leaves_by(endpoint, wanted.fwmark) != self._ifindex
            ):
                continue
            network = max(around, key=lambda n: n.prefixlen)
            told[f"swallowed {network}"] = (
                f"another made a route to {network} through {self._name}, and the endpoint "
                f"{endpoint} lies there: our own datagrams go into the tunnel that they make; "
                f"`ip route del {network} dev {self._name}`, or put {network} into allowed_ips"
            )
        return told

    def _say(self, done: list[str], problems: dict[str, str]) -> None:
        if done:
            named = ", ".join(done[:NAMED])
            more = f" and {len(done) - NAMED} more" if len(done) > NAMED else ""
            log.warning("%s: put back what was taken away: %s%s", self._name, named, more)
            self._tell(f"put back: {named}{more}")
        for key, text in problems.items():
            if self._problems.get(key) != text:
                log.warning("%s", text)
                self._tell(text)
        for key in self._problems.keys() - problems.keys():
            if key in ("down", "name", "gone", "ipv6") or key.startswith("swallowed "):
                log.info("%s: no longer: %s", self._name, self._problems[key].partition(":")[0])
        self._problems = problems

    async def _find(self) -> Found | None:
        link = await self._netlink.link_state(self._ifindex)
        if link is None:
            return None
        rules = set[Rule]()
        for version in (4, 6):
            rules |= await self._netlink.rules_of(version)
        routes = frozenset(await self._netlink.routes_of(self._ifindex))
        self._routes = len(routes)
        return Found(
            link,
            frozenset(await self._netlink.addresses_of(self._ifindex, lasting=True)),
            routes,
            frozenset(rules),
            await self._marks.found(),
            self._marks.put_last,
            self._marks.valid,
            self._marks.made_valid,
        )

    # mending

    async def _set_mtu(self, mtu: int) -> None:
        await self._netlink.set_mtu(self._ifindex, mtu)

    async def _no_link_local(self, kept: frozenset[Interface]) -> None:
        await self._netlink.no_link_local(self._ifindex)
        for address in await self._netlink.addresses_of(self._ifindex):
            if address.version == 6 and address.ip.is_link_local and address not in kept:
                await self._netlink.remove_address(self._ifindex, address)

    async def _set_queue(self, packets: int) -> None:
        await self._netlink.set_queue(self._ifindex, packets)

    async def _set_carrier(self, _: None) -> None:
        await self._netlink.set_carrier(self._ifindex)

    async def _add_connected(self, address: Interface) -> None:
        await self._netlink.add_connected(self._ifindex, address)

    async def _add_address(self, address: Interface) -> None:
        await self._netlink.add_address(self._ifindex, address)

    async def _add_route(self, route: Route) -> None:
        await self._netlink.add_route(self._ifindex, route)

    async def _add_rule(self, rule: Rule) -> None:
        await self._netlink.add_rule(rule)

    async def _set_marks(self, marks: tuple[int, int] | None) -> None:
        if marks is None:
            await self._marks.remove()
        else:
            await self._marks.put(*marks)

    async def _make_valid(self, _: None) -> None:
        self._marks.make_valid()

    # watching

    async def watch(self) -> None:
        """Look after every notice, and now and then, until cancelled."""
        await asyncio.sleep(START_S)
        reader = asyncio.create_task(self._notices())
        try:
            while True:
                await self._wait()
                if await self._netlink.link_state(self._ifindex) is None:
                    await asyncio.sleep(GONE_S)
                try:
                    await self.look()
                except Exception as e:  # without the keeper nothing would be put back any more
                    what = e if isinstance(e, OSError) else f"{type(e).__name__}: {e}"
                    log.warning("what the kernel has could not be looked at: %s", what)
                    await asyncio.sleep(GLANCE_S)
        finally:
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reader

    async def _wait(self) -> None:
        """Until there is a reason for a look."""
        loop = asyncio.get_running_loop()
        sweep = loop.time() + max(SWEEP_S, self._routes * SWEEP_PER_ROUTE_S)
        while (now := loop.time()) < sweep:
            until = min(sweep, now + GLANCE_S)
            if self._next is not None:
                until = min(until, self._next)
            try:
                async with asyncio.timeout_at(until):
                    await self._dirty.wait()
            except TimeoutError:
                due = self._next is not None and loop.time() >= self._next
                if due or (self._marked and not self._marks.valid):
                    return
                continue
            settle = max(SETTLE_S, min(self._routes * SETTLE_PER_ROUTE_S, SETTLE_MOST_S))
            await asyncio.sleep(settle)
            self._dirty.clear()
            return

    async def _notices(self) -> None:
        """Look soon after what the kernel tells of our interface, and of rules."""
        from pyroute2.iproute import AsyncIPRoute
        from pyroute2.netlink import rtnl

        names = ("LINK", "IPV4_IFADDR", "IPV6_IFADDR", "IPV4_ROUTE", "IPV6_ROUTE",
                 "IPV4_RULE", "IPV6_RULE")  # fmt: skip
        groups = sum(getattr(rtnl, f"RTMGRP_{name}") for name in names)
        while True:
            try:
                async with AsyncIPRoute() as ipr:
                    await ipr.bind(groups=groups)
                    self.soon()
                    while True:
                        async for message in ipr.get():
                            if self._concerns(message):
                                self.soon()
            except Exception as e:
                # ENOBUFS: the kernel dropped notices; a new socket and a full look make up for it.
                what = e if isinstance(e, OSError) else f"{type(e).__name__}: {e}"
                log.info("notices of the kernel: %s; starting over", what)
                await asyncio.sleep(1)

    def _concerns(self, message: Any) -> bool:
        event = message["event"]
        if event.endswith("ROUTE"):
            return bool(message.get("oif") == self._ifindex)
        return bool(event.endswith("RULE") or message.get("index") == self._ifindex)


def _no_ipv6(link: LinkState) -> str:
    left_out = "IPv6 addresses and routes are left out, the overlay address too"
    if link.mtu < IPV6_MTU_MIN:
        return f"MTU {link.mtu}: IPv6 needs {IPV6_MTU_MIN} or more, so {left_out}"
    return (
        f"IPv6 is switched off on {link.name}: {left_out}; "
        "`sysctl -w net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.default.disable_ipv6=0 "
        f"net.ipv6.conf.{link.name}.disable_ipv6=0` brings them"
    )


def _failed(repair: Repair, error: OSError) -> str:
    why = (error.strerror or str(error)).removeprefix(f"{repair.what}: ")
    if error.errno == errno.EEXIST and repair.act in ("_add_route", "_add_connected"):
        why = "another route to this network has taken its place; see `ip route show table all`"
    elif error.errno in (errno.EPERM, errno.EACCES):
        why = os.strerror(error.errno)
    return f"{repair.what} is missing and cannot be put back: {why}"
