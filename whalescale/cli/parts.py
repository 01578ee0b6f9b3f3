"""What the data plane is built of, part by part, as its own probes found it (`ws doctor`).

Registered buffers, zero-copy sends and SQPOLL are not here: the data plane does not use them
(docs/decisions.md).
"""

from __future__ import annotations

import errno
import os
from typing import Final, Literal, NamedTuple

Verdict = Literal["ok", "warn", "fail"]

OLD_KERNEL: Final = "use Linux 6.1 or newer"


class Check(NamedTuple):
    """One line of the report; `fix` says what would mend a warn or fail, `lost` what it costs."""

    name: str
    verdict: Verdict
    detail: str
    fix: str = ""
    lost: str = ""


class Part(NamedTuple):
    """`field`: of the probe's answer."""

    field: str
    name: str
    lost: str
    fix: str
    #: what it is if it is missing
    verdict: Verdict = "warn"


#: what io_uring needs, else recvmmsg and sendmmsg stand in
_MMSG: Final = (
    "the io_uring backend; recvmmsg and sendmmsg stand in (runs of small packets a third as fast)"
)
URING: Final = (
    Part("ring", "io_uring: rings", _MMSG, OLD_KERNEL),
    Part("registered_files", "io_uring: registered files", _MMSG, OLD_KERNEL),
    Part("buffer_ring", "io_uring: buffer rings", _MMSG, OLD_KERNEL),
    Part("multishot_receive", "io_uring: multishot recvmsg", _MMSG, OLD_KERNEL),
    Part(
        "deferred",
        "io_uring: SINGLE_ISSUER, DEFER_TASKRUN",
        "the kernel puts completions between the worker's steps; COOP_TASKRUN stands in",
        OLD_KERNEL,
    ),
    Part(
        "multishot_read",
        "io_uring: multishot read",
        "each read of the TUN device takes a request of its own",
        "use Linux 6.7 or newer",
    ),
)
_TUN_START: Final = "the agent does not start without it"
TUN: Final = (
    Part("vnet header", "TUN: vnet header", _TUN_START, OLD_KERNEL, "fail"),
    Part("checksum", "TUN: checksum", _TUN_START, OLD_KERNEL, "fail"),
    *(
        Part(
            name,
            f"TUN: {name}",
            "the agent starts only with tun_tso = false, and one TCP flow is about half as fast",
            "set tun_tso = false under [dataplane]",
            "fail",
        )
        for name in ("TSO4", "TSO6")
    ),
    Part(
        "USO4 and USO6",
        "TUN: USO4, USO6",
        "runs of datagrams from a program (QUIC) come one by one, a tenth as many a second",
        "use Linux 6.2 or newer",
    ),
    Part(
        "several queues",
        "TUN: several queues",
        "[dataplane] workers above 1",
        "keep workers = 1 under [dataplane]",
    ),
)
_GSO: Final = "a system call for each datagram: one TCP flow is a quarter as fast"
_GRO: Final = "a receive for each datagram: one TCP flow is a sixth as fast"
_OFF: Final = "; the agent switches it off by itself"
UDP: Final = (
    Part("gso", "UDP: UDP_SEGMENT", _GSO + _OFF, "use another kernel"),
    Part("gro", "UDP: UDP_GRO", _GRO + _OFF, "use another kernel"),
    Part("both", "UDP: both together", "both" + _OFF, "use another kernel"),
)
_BURSTS: Final = "bursts that do not fit are dropped before the agent sees them"
BUFFERS: Final = (
    Part("receive", "UDP: SO_RCVBUFFORCE", _BURSTS, "raise net.core.rmem_max"),
    Part("send", "UDP: SO_SNDBUFFORCE", _BURSTS, "raise net.core.wmem_max"),
)


def uring() -> list[Check]:
    try:
        from whalescale.dataplane.selftest import uring_parts
    except ImportError:
        return [_without_extension("io_uring: parts")]
    _, found = uring_parts()
    return [
        _judge(part, getattr(found, part.field), "an earlier part is missing") for part in URING
    ]


def tun() -> list[Check]:
    from whalescale.dataplane import tun_offloads

    found = tun_offloads.probe()
    if found.error in (-errno.EPERM, -errno.EACCES):
        problem = "not tried: a TUN device takes CAP_NET_ADMIN"
        return [Check("TUN: parts", "warn", problem, "run it with `sudo` to see them")]
    if found.error:
        problem = f"not tried: no TUN device can be made ({_text(-found.error)})"
        return [Check("TUN: parts", "warn", problem, "look at the line TUN device")]
    return [_judge(part, found.parts[part.field], "") for part in TUN]


def udp() -> list[Check]:
    """The self-test that the agent makes at its start, and what a socket of its own gets."""
    try:
        from whalescale.dataplane.selftest import udp_parts
    except ImportError:
        return [_without_extension("UDP: parts")]
    found = udp_parts()
    why = "no datagrams come through over loopback" if found.loopback else "one alone is missing"
    fix = "let UDP through on lo (is it up? a firewall?)" if found.loopback else ""
    checks = [
        _judge(part, getattr(found, part.field), why, "present, carries bytes unharmed", fix)
        for part in UDP
    ]
    for part in BUFFERS:
        got = f"{getattr(found, f'{part.field}_bytes') / (1 << 20):.3g} MiB for a socket"
        result = getattr(found, f"{part.field}_force")
        check = _judge(part, result, "no socket can be made", f"present, {got}")
        if result < 0:
            fix = "run it with `sudo`" if os.geteuid() else part.fix
            check = check._replace(detail=f"{check.detail}; {got}", fix=fix)
        checks.append(check)
    return checks


def _judge(
    part: Part, result: int, why: str, present: str = "present", untried_fix: str = ""
) -> Check:
    """0: it is there, below: the errno that it lacks for, above: nothing was learned, and `why`."""
    if result == 0:
        return Check(part.name, "ok", present, "", part.lost)
    if result > 0:
        return Check(part.name, "warn", f"not tried: {why}", untried_fix or part.fix, part.lost)
    harm = {errno.EBADMSG: "broken: other bytes come out", errno.ETIME: "broken: not all comes out"}
    detail = harm.get(-result, f"missing: {_text(-result)}")
    return Check(part.name, part.verdict, detail, part.fix, part.lost)


def _text(number: int) -> str:
    return f"{os.strerror(number)}, {errno.errorcode.get(number, number)}"


def _without_extension(name: str) -> Check:
    return Check(name, "warn", "not tried: the compiled extension is missing", "`make setup`")
