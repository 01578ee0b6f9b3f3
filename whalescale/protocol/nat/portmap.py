"""A port of ours, mapped by one gateway: asked for, renewed, watched, given back. Of an IPv6
address it is no mapping but a hole in the gateway's firewall, by PCP alone.

Pure: facts and `now` (ns of CLOCK_BOOTTIME) in, datagrams to the gateway out. After every input
drain `poll_transmit` and `poll_wish` and re-arm one timer for `deadline`. Nothing that a gateway
sends raises; what is refused is counted in `drops`. What it maps is a claim: a place to try, as all
others.
"""

from __future__ import annotations

import ipaddress
from collections import Counter, deque
from enum import Enum
from typing import Final

from whalescale.protocol.limits import NS_PER_MS, NS_PER_S
from whalescale.protocol.nat import portmap_codec as codec
from whalescale.protocol.places import Endpoint

#: asked for, s
LIFETIME_S: Final = 7200
#: what is granted for less would be renewed all the time, for more is looked at again
LEAST_LIFETIME_S: Final = 10
MOST_LIFETIME_S: Final = 86_400
#: PCP is asked first, NAT-PMP so much later: it may be the one that is spoken
APART: Final = 250 * NS_PER_MS
#: of a round, then the same again where nothing was heard
REPEATS: Final = (0, NS_PER_S, 3 * NS_PER_S)
ROUND: Final = 5 * NS_PER_S
#: UPnP is asked where nobody has answered by then, and given up so long after
UPNP_AFTER: Final = 3 * NS_PER_S // 2
UPNP_ROUND: Final = 25 * NS_PER_S
#: what a gateway says to all is a reason to look, so often, and so much later at most (RFC 6887
#: section 14.1.3: not all hosts at once)
WORD: Final = 30 * NS_PER_S
WORD_LATER: Final = 2 * NS_PER_S
#: of a mapping by which nobody got in, doubled each time
DEAD_FIRST: Final = 600 * NS_PER_S
DEAD_MOST: Final = 3600 * NS_PER_S
#: between two looks at the epoch: a gateway that began anew has forgotten its mappings
LOOK: Final = 300 * NS_PER_S
#: after rounds without an answer, doubled each time
SILENT_FIRST: Final = 120 * NS_PER_S
SILENT_MOST: Final = 3600 * NS_PER_S
#: after a refusal; PCP may say how long it lasts
REFUSED: Final = 600 * NS_PER_S
REFUSED_LEAST: Final = 60 * NS_PER_S
REFUSED_MOST: Final = 3600 * NS_PER_S
#: before a renewal that was not answered is tried again, at least
AGAIN: Final = 30 * NS_PER_S


class Protocol(Enum):
    PCP = "PCP"
    NATPMP = "NAT-PMP"
    #: spoken by others (runtime/upnp.py): here is when, and what becomes of it
    UPNP = "UPnP"


class Wish(Enum):
    """What the gateway's UPnP is to be asked for."""

    MAP = "map"
    #: whether the mapping is still listed
    LOOK = "look"
    GIVE_BACK = "give back"


_DATAGRAMS: Final = (Protocol.PCP, Protocol.NATPMP)


class State(Enum):
    ASKING = "asking"
    MAPPED = "mapped"
    #: nobody answers
    SILENT = "silent"
    #: it will not, or what it maps is no good
    REFUSED = "refused"
    ENDED = "ended"


class _Epoch:
    """When a gateway began, as its answers tell (RFC 6887 section 8.5, RFC 6886 section 3.6)."""

    __slots__ = ("_at", "_value")

    def __init__(self) -> None:
        self._at: int | None = None
        self._value = 0

    def goes_on(self, value: int, now: int, slack: int, *, upward: bool) -> bool:
        """False: it began anew since the answer before. `slack`: a clock may be off by 1 in so
        many. `upward`: one that runs ahead is another gateway's."""
        at, before = self._at, self._value
        self._at, self._value = now, value
        if at is None:
            return True
        ours, its = (now - at) // NS_PER_S, value - before
        if its < -1 or its + 2 < ours - ours // slack:
            return False
        return not upward or ours + 2 >= its - its // slack


def no_good(ip: str, version: int = 4) -> str:
    """Why nobody outside can reach this address, "": they may. For a user, after "it has "."""
    try:
        address = (ipaddress.IPv4Address if version == 4 else ipaddress.IPv6Address)(ip)
    except ValueError:
        return f"no IPv{version} address"
    if address.is_unspecified:
        return "no address outside"
    if address.is_multicast or address.is_loopback or not address.is_global:
        return f"{ip} outside, no public address: another NAT is behind it"
    return ""


class Mapping:
    """Of one port at one gateway. `begin` starts it."""

    def __init__(
        self, gateway: str, local_ip: str, port: int, nonce: bytes, *, upnp: bool = False
    ) -> None:
        """`gateway`, `local_ip`: as text, both IPv4 or IPv6. `port`: our UDP port. `nonce`: 12
        bytes that nobody guesses, for this place always the same: who comes with another is
        refused. `upnp`: its wishes are seen to."""
        self.gateway = Endpoint(gateway, codec.GATEWAY_PORT)
        self.local = Endpoint(local_ip, port)
        self.version = ipaddress.ip_address(local_ip).version
        self._speaks = _DATAGRAMS if self.version == 4 else (Protocol.PCP,)
        #: every datagram that was not taken, by reason
        self.drops: Counter[str] = Counter()
        self.state = State.ASKING
        #: where we are reached from outside, as the gateway says
        self.external: Endpoint | None = None
        #: that of `external`
        self.protocol: Protocol | None = None
        #: why there is none, in words
        self.problem = ""
        #: how often the gateway was found to have begun anew
        self.restarts = 0
        #: whether others got in at `external`; None: not known
        self.dialled: bool | None = None
        self.lease_ends = 0
        self._nonce = nonce
        self._upnp = upnp
        self._wishes: deque[Wish] = deque()
        #: UPnP was asked in this round
        self._upnp_begun = False
        self._epochs = {protocol: _Epoch() for protocol in _DATAGRAMS}
        self._out: deque[bytes] = deque()
        #: what is still to be sent of the round, and when
        self._round: deque[tuple[int, Protocol]] = deque()
        self._round_ends: int | None = None
        #: the round looks at the epoch only
        self._looking = False
        #: asked in this round and not refused, nor answered
        self._asked: set[Protocol] = set()
        self._refusal = ("", REFUSED)
        #: NAT-PMP says in two answers what PCP says in one
        self._address: str | None = None
        self._granted: codec.NatPmp | None = None
        self._next_at: int | None = None
        self._look_at: int | None = None
        self._silent = SILENT_FIRST
        # A firewall changes no address.
        self._suggested = (codec.ANY if self.version == 4 else local_ip, port)
        self._renew_at = 0
        self._word_at: int | None = None
        self._dead = DEAD_FIRST
        self._began = 0

    # inputs

    def begin(self, now: int) -> None:
        """Ask, at once: at the start, and where the network may be another."""
        if self.state is State.ENDED:
            return
        self._silent = SILENT_FIRST
        self._start(now)

    def end(self) -> None:
        """Give the mapping back. One datagram: what is lost ends with its lease."""
        if self.external is not None:
            self._give_back()
        self.external = self.dialled = None
        self.state = State.ENDED
        self._stop()
        self._next_at = self._look_at = None

    def receive(self, data: bytes, source: Endpoint, now: int) -> None:
        if source[:2] != self.gateway[:2]:
            self.drops["source"] += 1
            return
        try:
            answer = codec.decode(data)
            if isinstance(answer, codec.Pcp):
                self._pcp(answer, now)
            else:
                self._natpmp(answer, now)
        except codec.AnswerError as e:
            self.drops[str(e)] += 1

    def word(self, data: bytes, source: Endpoint, now: int) -> None:
        """What a gateway says to all. Anybody on the link can say it, so it is a reason to look:
        its epoch is asked for, or what it did not give."""
        if source[:2] != self.gateway[:2]:
            return
        try:
            if not codec.is_word(data):
                raise codec.AnswerError("opcode")
        except codec.AnswerError as e:
            self.drops[f"word_{e}"] += 1
            return
        if self._word_at is not None and now - self._word_at < WORD:
            self.drops["word_rate"] += 1
            return
        if self._round_ends is not None:
            return  # it is being asked
        self._word_at = now
        at = now + WORD_LATER * self._nonce[0] // 256
        if self.external is not None:
            self._look_at = at if self._look_at is None else min(self._look_at, at)
        elif self._next_at is not None:
            self._next_at = min(self._next_at, at)

    def reached(self, *, reached: bool, now: int) -> None:
        """What came of dialling `external` back: a mapping that lets nobody in is none."""
        if self.external is None:
            return
        if reached:
            self.dialled, self._dead = True, DEAD_FIRST
            return
        where = self.external
        self._give_back()
        self._stop()
        self._look_at = None
        self._lost(f"it maps {where.ip} port {where.port}, where nobody gets in")
        self._wait(now, State.REFUSED, self._dead)
        self.dialled = False
        self._dead = min(2 * self._dead, DEAD_MOST)

    def unreachable(self, now: int) -> None:
        """The gateway, or the kernel, says that nobody listens there."""
        if self._round_ends is None or self._looking or not self._asked - {Protocol.UPNP}:
            return
        self._round.clear()
        self._asked &= {Protocol.UPNP}
        self._begin_upnp(now)
        if not self._asked:
            self._round_over(now)
            if self.state is State.SILENT:
                self.problem = "it maps no ports: nobody listens there"

    # inputs: UPnP

    def upnp_mapped(self, external: Endpoint, lifetime: int, now: int) -> None:
        """`lifetime`: s."""
        if Protocol.UPNP not in self._asked or self._looking:
            self._wish(Wish.GIVE_BACK)
        else:
            self._mapped(Protocol.UPNP, external, lifetime, now)

    def upnp_refused(self, why: str, now: int) -> None:
        if Protocol.UPNP in self._asked and not self._looking:
            self._refused(Protocol.UPNP, why, REFUSED, now)
            self._upnp_over(now)

    def upnp_silent(self, now: int) -> None:
        """No such gateway, or no answer of it."""
        if Protocol.UPNP not in self._asked:
            return
        if self._looking or self.external is not None:
            self._round_over(now)
            return
        self._asked.discard(Protocol.UPNP)
        self._upnp_over(now)

    def _upnp_over(self, now: int) -> None:
        """The others still have what is left of a round's time."""
        if self._round_ends is not None and not self._looking:
            self._round_ends = self._began + ROUND
            if not self._asked or now >= self._round_ends:
                self._round_over(now)

    def upnp_looked(self, listed: bool, now: int) -> None:
        if self._looking and Protocol.UPNP in self._asked:
            self._stop()
            if listed:
                self._rest(now)
            else:
                self.restarts += 1
                self._start(now)

    def handle_timeout(self, now: int) -> None:
        """Too early does no harm."""
        if self.external is not None and self.lease_ends <= now:
            self._lost("its lease ended and was not renewed")
            self._start(now)
        while self._round and self._round[0][0] <= now:
            _, protocol = self._round.popleft()
            if protocol in self._asked:
                self._ask(protocol)
        if (
            self._round_ends is not None
            and not self._looking
            and self.external is None
            and now >= self._began + UPNP_AFTER
        ):
            self._begin_upnp(now)
        if self._round_ends is not None and self._round_ends <= now:
            self._round_over(now)
        if self._round_ends is None:
            if self._next_at is not None and self._next_at <= now:
                self._start(now)
            elif self._look_at is not None and self._look_at <= now:
                self._start(now, look=True)

    # outputs

    def poll_transmit(self) -> bytes | None:
        """For the gateway."""
        return self._out.popleft() if self._out else None

    def poll_wish(self) -> Wish | None:
        """For the gateway's UPnP. The answer to MAP and LOOK is an input."""
        return self._wishes.popleft() if self._wishes else None

    def deadline(self) -> int | None:
        times = [t for t in (self._round_ends, self._next_at, self._look_at) if t is not None]
        if self._round_ends is not None:
            times = [self._round_ends]
        if self._round:
            times.append(self._round[0][0])
        if self._round_ends is not None and self._upnp_may_begin:
            times.append(self._began + UPNP_AFTER)
        if self.external is not None:
            times.append(self.lease_ends)
        return min(times, default=None)

    # rounds

    def _start(self, now: int, *, look: bool = False) -> None:
        self._looking = look
        known = [self.protocol] if self.protocol is not None else list(self._speaks)
        self._asked = set(known)
        self._upnp_begun = False
        times = [(now + t + APART * n, p) for t in REPEATS for n, p in enumerate(known)]
        self._round = deque(times)
        self._began, self._round_ends = now, now + ROUND
        self._refusal = ("", REFUSED)
        self._address = self._granted = None
        self._next_at = self._look_at = None
        if self.external is None:
            self.state = State.ASKING
        if self.protocol is Protocol.UPNP:
            self._round.clear()
            self._round_ends, self._upnp_begun = now + UPNP_ROUND, True
            self._wish(Wish.LOOK if look else Wish.MAP)
            return
        _, first = self._round.popleft()
        self._ask(first)

    @property
    def _upnp_may_begin(self) -> bool:
        return self._upnp and not self._upnp_begun and not self._looking and self.external is None

    def _begin_upnp(self, now: int) -> None:
        """Nobody speaks the others, as it seems; who said no by them says no by this."""
        if not self._upnp_may_begin:
            return
        self._upnp_begun = True
        if self._refusal[0] not in ("", codec.PCP_RESULTS[1]):
            return
        self._asked.add(Protocol.UPNP)
        self._round_ends = now + UPNP_ROUND
        self._wish(Wish.MAP)

    def _wish(self, wish: Wish) -> None:
        if wish not in self._wishes:
            self._wishes.append(wish)

    def _stop(self) -> None:
        self._round.clear()
        self._round_ends = None
        self._asked = set()

    def _ask(self, protocol: Protocol) -> None:
        if protocol is Protocol.PCP:
            self._out.append(
                codec.pcp_announce(self.local.ip)
                if self._looking
                else codec.pcp_map(
                    self._nonce, self.local.ip, self.local.port, LIFETIME_S, self._suggested
                )
            )
            return
        self._out.append(codec.natpmp_address())
        if not self._looking:
            self._out.append(codec.natpmp_map(self.local.port, LIFETIME_S, self._suggested[1]))

    def _round_over(self, now: int) -> None:
        """All that was to be asked was, and waited for; or all of it is refused."""
        looking = self._looking
        heard = bool(self._refusal[0])
        self._stop()
        if looking:
            self._rest(now)
        elif self.external is not None:
            if heard:
                # What it does not renew it will not keep.
                self._lost(self._refusal[0])
                self._wait(now, State.REFUSED, self._refusal[1])
            else:
                left = max(self.lease_ends - now, 0)
                self._next_at = now + max(left // 2, AGAIN)
        elif heard:
            self.problem = self._refusal[0]
            self._wait(now, State.REFUSED, self._refusal[1])
        else:
            asked = [p.value for p in self._speaks] + ["UPnP"] * self._upnp
            also = f" and {asked[-1]}" if asked[1:] else ""
            self.problem = f"no answer to {', '.join(asked[:-1] or asked)}{also}"
            self._wait(now, State.SILENT, self._silent)
            self._silent = min(2 * self._silent, SILENT_MOST)

    def _wait(self, now: int, state: State, time: int) -> None:
        self.state = state
        self.protocol = None
        self._next_at = now + time

    def _rest(self, now: int) -> None:
        """A mapping is there; renew it at half its lease."""
        self._next_at = self._renew_at
        self._look_at = now + LOOK

    # answers

    def _pcp(self, answer: codec.Pcp, now: int) -> None:
        if answer.result == codec.UNSUPPORTED_VERSION and not answer.nonce:
            # To what it cannot read it has no better answer: it speaks PCP, not NAT-PMP.
            asked = self._speaks[-1]
            self._refused(asked, codec.NATPMP_RESULTS[1], REFUSED, now)
            return
        self._expect(Protocol.PCP)
        if answer.opcode == codec.PCP_ANNOUNCE or self._looking:
            if not self._looking or answer.opcode != codec.PCP_ANNOUNCE:
                raise codec.AnswerError("unasked")
            # A gateway that does not know this opcode tells its epoch all the same.
            self._looked(Protocol.PCP, answer.epoch, now)
            return
        if answer.nonce != self._nonce:
            raise codec.AnswerError("nonce")
        if answer.port != self.local.port:
            raise codec.AnswerError("port")
        self._follow(Protocol.PCP, answer.epoch, now)
        if answer.result:
            why = codec.PCP_RESULTS.get(answer.result, f"it refuses (PCP {answer.result})")
            lasts = min(max(answer.lifetime * NS_PER_S, REFUSED_LEAST), REFUSED_MOST)
            self._refused(Protocol.PCP, why, lasts, now)
            return
        external = Endpoint(answer.external_ip, answer.external_port)
        self._mapped(Protocol.PCP, external, answer.lifetime, now)

    def _natpmp(self, answer: codec.NatPmp, now: int) -> None:
        if answer.result == codec.UNSUPPORTED_VERSION:
            # It has read version 2, and knows 0 alone.
            self._refused(Protocol.PCP, codec.PCP_RESULTS[1], REFUSED, now)
            return
        self._expect(Protocol.NATPMP)
        if answer.opcode == codec.NATPMP_MAP_UDP and not answer.result:
            if self._looking:
                raise codec.AnswerError("unasked")
            if answer.port != self.local.port:
                raise codec.AnswerError("port")
        if self._looking:
            other = self.external is not None and answer.external_ip != self.external.ip
            self._looked(Protocol.NATPMP, answer.epoch, now, other=other and not answer.result)
            return
        self._follow(Protocol.NATPMP, answer.epoch, now)
        if answer.result:
            why = codec.NATPMP_RESULTS.get(answer.result, f"it refuses (NAT-PMP {answer.result})")
            self._refused(Protocol.NATPMP, why, REFUSED, now)
            return
        if answer.opcode == codec.NATPMP_ADDRESS:
            self._address = answer.external_ip
        else:
            self._granted = answer
        if self._address is not None and self._granted is not None:
            external = Endpoint(self._address, self._granted.external_port)
            self._mapped(Protocol.NATPMP, external, self._granted.lifetime, now)

    def _expect(self, protocol: Protocol) -> None:
        if protocol not in self._asked:
            raise codec.AnswerError("unasked")

    def _follow(self, protocol: Protocol, epoch: int, now: int) -> bool:
        """Whether the gateway goes on where it was; the answer to a MAP is of now either way."""
        pcp = protocol is Protocol.PCP
        on = self._epochs[protocol].goes_on(epoch, now, 16 if pcp else 8, upward=pcp)
        self.restarts += not on
        return on

    def _looked(self, protocol: Protocol, epoch: int, now: int, *, other: bool = False) -> None:
        """`other`: its address is not the mapping's."""
        goes_on = self._follow(protocol, epoch, now)
        self._stop()
        if goes_on and not other:
            self._rest(now)
        else:
            self._start(now)

    def _refused(self, protocol: Protocol, why: str, lasts: int, now: int) -> None:
        self._expect(protocol)
        if self._looking:
            self._stop()
            self._rest(now)
            return
        self._asked.discard(protocol)
        # What the first says counts, unless it only does not speak the protocol.
        if not self._refusal[0] or self._refusal[0] == codec.PCP_RESULTS[1]:
            self._refusal = (why, lasts)
        if not self._asked:
            self._begin_upnp(now)
        if not self._asked:
            self._round_over(now)
            return
        # The other one now, if it was not asked yet: no need to wait for its turn.
        if self._round and now < self._began + APART:
            _, other = self._round.popleft()
            if other in self._asked:
                self._ask(other)

    def _mapped(self, protocol: Protocol, external: Endpoint, lifetime: int, now: int) -> None:
        why = no_good(external.ip, self.version)
        if not why and not external.port:
            why = "port 0 outside"
        if not why and lifetime < LEAST_LIFETIME_S:
            why = f"mappings of {lifetime} s only"
        if why:
            self.protocol = protocol
            if lifetime:
                self._give_back()
            self._stop()
            self._lost(f"it has {why}")
            self._wait(now, State.REFUSED, REFUSED)
            return
        lease = min(lifetime, MOST_LIFETIME_S) * NS_PER_S
        if external != self.external:
            self.dialled = None
        self.protocol, self.external, self.state = protocol, external, State.MAPPED
        self.problem = ""
        self.lease_ends = now + lease
        self._renew_at = now + min(lease, LIFETIME_S * NS_PER_S) // 2
        self._suggested = external[:2]
        self._silent = SILENT_FIRST
        self._stop()
        self._rest(now)

    def _lost(self, why: str) -> None:
        self.external = None
        self.dialled = None
        self.protocol = None
        self.problem = why

    def _give_back(self) -> None:
        if self.protocol is Protocol.UPNP:
            self._wish(Wish.GIVE_BACK)
            return
        self._out.append(
            codec.natpmp_map(self.local.port, 0)
            if self.protocol is Protocol.NATPMP
            else codec.pcp_map(self._nonce, self.local.ip, self.local.port, 0)
        )
