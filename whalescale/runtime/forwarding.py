"""What this host forwards for its peers, and that all its own traffic goes through one of them.

Two nftables tables (family inet). `whalescale-NAME-forward` is owned by this process and ends with
it: masquerade, MSS, whom peers may reach, DNS by way of the exit. `whalescale-NAME-exit`, the kill
switch, has no owner: it stays when the agent is killed or stopped, until a configuration without
an exit is in force or `ws exit-node off` takes it away.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Final

from whalescale.config import Config, ExitConfig, ForwardConfig
from whalescale.locations import exit_table
from whalescale.nft import Nft, open_nft
from whalescale.runtime.background import Background
from whalescale.runtime.part import Part

log = logging.getLogger(__name__)

#: a look whether the tables are as they shall be
LOOK_S: Final = 2.0
CONF: Final = Path("/proc/sys/net")
#: destinations that count as the LAN: RFC 1918, RFC 3927, RFC 4193, link-local, multicast
LAN4: Final = "{ 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 169.254.0.0/16, 224.0.0.0/4 }"
LAN6: Final = "{ fc00::/7, fe80::/10, ff00::/8 }"
#: without these no address and no neighbour is found (RFC 4861)
NEIGHBOURS: Final = (
    "{ nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert }"
)


def forward_table(name: str) -> str:
    return f"whalescale-{name}-forward"


#: of a table that goes with its owner
OWNED: Final = "flags owner;"


def _gone(table: str, flags: str = "") -> str:
    """Whether there is one of this name or not. A table whose flags `add` would change is refused
    by the kernel, and `destroy` needs Linux 6.3."""
    return f"add table inet {table} {{ {flags} }}\ndelete table inet {table}\n"


def _anew(table: str, body: Iterable[str], flags: str = "") -> str:
    """In place of a table of this name."""
    lines = [f"table inet {table} {{", *([flags] if flags else []), *body, "}", ""]
    return _gone(table, flags) + "\n".join(lines)


def _chain(name: str, hook: str, rules: Iterable[str]) -> list[str]:
    return [f"chain {name} {{", hook, *rules, "}"]


def forward_commands(name: str, forward: ForwardConfig, exit: ExitConfig, mark: int) -> str:
    """`mark`: of our own datagrams, which pass the table of the tunnel's routes by; 0: there is no
    such table. What comes out of the tunnel bears it too: two hosts that are each other's exit
    would else send it back and forth."""
    ours, others = f'iifname "{name}"', f'oifname != "{name}"'
    body: list[str] = []
    if mark:
        body += _chain(
            "early",
            "type filter hook prerouting priority -150;",
            [f"{ours} fib daddr type != local meta mark set {mark:#x}"],
        )
    rules: list[str] = []
    if forward.networks and not forward.exit:
        for version, word in ((4, "ip"), (6, "ip6")):
            own = ", ".join(str(n) for n in forward.networks if n.version == version)
            family = f"meta nfproto ipv{version}"
            may = f"{word} daddr != {{ {own} }} " if own else ""
            rules.append(f"{ours} {others} {family} ct state new {may}drop")
    clamp = "tcp flags syn tcp option maxseg size set rt mtu"
    rules += [f"{ours} {clamp}", f'oifname "{name}" {clamp}']
    body += _chain("forward", "type filter hook forward priority 5;", rules)
    if forward.masquerade and (forward.networks or forward.exit):
        hook = "type nat hook postrouting priority 100;"
        body += _chain("source", hook, [f"{ours} {others} masquerade"])
    if exit.use and exit.dns is not None:
        body += _chain("dns", "type nat hook output priority -100;", _dns(exit, mark))
        # A question to a resolver of the LAN bears the LAN's address, which no exit takes.
        hook = "type nat hook postrouting priority 100;"
        asked = (f'oifname "{name}" {q} masquerade' for q in _redirected(exit))
        body += _chain("asking", hook, asked)
    return _anew(forward_table(name), body, OWNED)


def _dns(exit: ExitConfig, mark: int) -> list[str]:
    """Questions of this host go there, but the agent's own, and what stays on the host."""
    assert exit.dns is not None
    word, loopback = ("ip", "127.0.0.0/8") if exit.dns.version == 4 else ("ip6", "::1")
    asked = f"meta nfproto ipv{exit.dns.version} {word} daddr != {loopback}"
    passed = [f"meta mark {mark:#x} return"] if mark else []
    return [
        *passed,
        f"{asked} fib daddr type != local udp dport 53 dnat {word} to {exit.dns}",
        f"{asked} fib daddr type != local tcp dport 53 dnat {word} to {exit.dns}",
    ]


def _redirected(exit: ExitConfig) -> Iterator[str]:
    """What matches the questions that `_dns` has sent elsewhere."""
    if exit.dns is not None:
        word = "ip" if exit.dns.version == 4 else "ip6"
        for protocol in ("udp", "tcp"):
            yield f"{word} daddr {exit.dns} {protocol} dport 53 ct status dnat"


def exit_commands(name: str, exit: ExitConfig, mark: int) -> str:
    """Nothing leaves but by the tunnel, our own datagrams, and what finds addresses."""
    rules = [
        f'oifname {{ "lo", "{name}" }} accept',
        f"meta mark {mark:#x} accept",
        "udp dport { 67, 547 } accept",
        f"icmpv6 type {NEIGHBOURS} accept",
    ]
    asked = list(_redirected(exit))
    if exit.dns is not None:
        # Here they still have the device of the route to where they were sent first; where they
        # really leave is known behind.
        rules += [f"{question} accept" for question in asked]
        rules.append("udp dport 53 reject with icmpx admin-prohibited")
        rules.append("tcp dport 53 reject with tcp reset")
    if exit.lan:
        rules += [f"ip daddr {LAN4} accept", f"ip6 daddr {LAN6} accept"]
    rules.append("reject with icmpx admin-prohibited")
    body = _chain("output", "type filter hook output priority 0;", rules)
    if asked:
        hook = "type filter hook postrouting priority 0;"
        body += _chain("behind", hook, (f'oifname != "{name}" {q} drop' for q in asked))
    passing = [f'iifname "{name}" accept', *rules]
    return _anew(
        exit_table(name), body + _chain("forward", "type filter hook forward priority 0;", passing)
    )


class Forwarding(Part):
    """`open` it before privileges are dropped."""

    name: ClassVar[str] = "forwarding"

    def __init__(self, config: Config, mark: Callable[[], int], background: Background) -> None:
        """`mark()`: of our datagrams, while there is a table of the tunnel's routes; else 0."""
        self._config = config
        self._mark = mark
        self._background = background
        self._nft: Nft | None = None
        #: what stands in the kernel
        self._forward = self._exit = ""
        self._rules = 0
        self._sysctls: dict[str, int] = {}
        #: the last trouble, so that it is told once
        self.problem = ""

    @property
    def _wanted(self) -> bool:
        forward = self._config.forward
        return bool(forward.networks or forward.exit or self._config.exit.use)

    @property
    def _interface(self) -> str:
        return self._config.interface.name

    def open(self) -> None:
        """What later needs more than CAP_NET_ADMIN."""
        self._nft, _ = open_nft()
        accept_ra = sorted((CONF / "ipv6/conf").glob("*/accept_ra"))
        for path in (CONF / "ipv4/ip_forward", CONF / "ipv6/conf/all/forwarding", *accept_ra):
            try:
                self._sysctls[str(path)] = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            except OSError as e:
                log.debug("%s: %s", path, e.strerror)

    def started(self) -> None:
        self._look()
        self._background.spawn(self._watch())

    async def apply(self, config: Config) -> None:
        self._config = config
        self._look()

    async def close(self) -> None:
        """The kernel takes our table away with the socket; the kill switch stays."""
        self._release()
        for descriptor in self._sysctls.values():
            os.close(descriptor)
        self._sysctls.clear()

    def status(self) -> dict[str, Any]:
        forward, exit = self._config.forward, self._config.exit
        return {
            "networks": [str(n) for n in forward.networks],
            "serves": forward.exit,
            "exit": exit.use,
            "kill_switch": bool(self._exit),
            "problem": self.problem,
        }

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            if self._wanted or self._forward or self._exit or self.problem:
                self._look()

    def _look(self) -> None:
        problem = ""
        try:
            self._put()
        except OSError as e:
            problem = e.strerror or str(e)
        if problem and problem != self.problem:
            log.error("forwarding: %s", problem)
        self.problem = problem

    def _put(self) -> None:
        """OSError: what could not be done, and is tried again."""
        forward, exit, mark = self._config.forward, self._config.exit, self._mark()
        if self._nft is None:
            if not self._wanted:
                return
            self._nft, missing = open_nft()
            if self._nft is None:
                raise OSError(0, missing)
        self._guard(self._nft, exit, mark)
        text = forward_commands(self._interface, forward, exit, mark) if self._wanted else ""
        if text != self._forward:
            table = forward_table(self._interface)
            self._nft.run(text or _gone(table, OWNED))
            self._forward = text
        if forward.networks or forward.exit:
            self._let_through()
        if not self._wanted:
            self._release()  # it comes back once something is

    def _release(self) -> None:
        if self._nft is not None:
            self._nft.close()
            self._nft = None

    def _guard(self, nft: Nft, exit: ExitConfig, mark: int) -> None:
        """The kill switch: put back when somebody takes it away, or a rule of it."""
        table = exit_table(self._interface)
        standing = nft.rules(table)
        if not (exit.use and exit.kill_switch):
            if standing is not None:
                nft.run(f"delete table inet {table}\n")
                log.info("the kill switch is off")
            self._exit = ""
            return
        if not mark:
            return  # before the first route: what stands from before goes on
        text = exit_commands(self._interface, exit, mark)
        if text == self._exit and standing == self._rules:
            return
        if self._exit and text == self._exit:
            log.warning("the kill switch was taken away: put back")
        nft.run(text)
        self._exit, self._rules = text, nft.rules(table) or 0

    def _let_through(self) -> None:
        """Forwarding on. An uplink that takes router advertisements goes on doing so."""
        for path, descriptor in self._sysctls.items():
            if path.endswith("accept_ra") and _read(descriptor) == b"1":
                os.pwrite(descriptor, b"2\n", 0)
        for path, descriptor in self._sysctls.items():
            if path.endswith(("ip_forward", "all/forwarding")) and _read(descriptor) != b"1":
                os.pwrite(descriptor, b"1\n", 0)
                log.info("%s = 1", path.removeprefix("/proc/sys/").replace("/", "."))


def _read(descriptor: int) -> bytes:
    return os.pread(descriptor, 16, 0).strip()
