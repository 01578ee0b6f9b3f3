"""Two members behind routers find a direct way, as far as the routers let them (docs/nat.md)."""

from __future__ import annotations

import itertools
import random

import pytest
from eventqueue import MS, SECOND
from natmodel import Depends, Nat
from natworld import NatWorld, both_move, must_be_direct

NO, AD, PO = Depends

KINDS = {
    "public": None,
    "full cone": {"maps": NO, "filters": NO},
    "restricted": {"maps": NO, "filters": AD},
    "port-restricted": {"maps": NO, "filters": PO},
    "symmetric": {"maps": PO, "filters": PO},
    "carrier": "carrier",
    "blocked": {"maps": NO, "filters": PO, "blocked": True},
}


def home(kind, number, **more):
    """The routers of one home; None: a public address."""
    if kind == "public":
        return None
    if kind == "carrier":
        outer = Nat(f"5.8.{number}.1", **more)
        return Nat(f"100.64.{number}.2", outside=outer)
    return Nat(f"5.7.{number}.1", **{**KINDS[kind], **more})


def meet(world, one, two):
    """An anchor, and two members that want to speak: all that they know is the anchor."""
    anchor = world.member(anchor=True)
    a, b = world.member(one), world.member(two)
    for host in (a, b):
        world.meet_anchor(host, anchor)
    for _ in range(30):
        world.run(1)
        if world.warm(a, anchor) and world.warm(b, anchor):
            break
    world.run(1)
    world.know(a, b, *([b.at] if two is None else []))
    world.know(b, a, *([a.at] if one is None else []))
    return anchor, a, b


def want(world, a, b):
    handle = world.handle(a, b)
    a.send(handle, b"\x45 hello")
    return handle


def until_direct(world, a, b, seconds):
    """Seconds until a packet of `a` is there, one sent each quarter; None: never."""
    begin, handle = world.now, world.handle(a, b)
    b.received.clear()
    while world.now - begin < seconds * SECOND:
        for _ in range(5):
            if b.received:
                return (b.received[0][0] - begin) / SECOND
            world.run(0.05)
        a.send(handle, b"\x45 hello")
    return None


@pytest.mark.parametrize(
    "pair", list(itertools.combinations_with_replacement(KINDS, 2)), ids="-".join
)
def test_the_table(pair):
    """docs/nat.md, "Who reaches whom": every pair, as theory says."""
    one, two = (home(kind, n + 1) for n, kind in enumerate(pair))
    expected = must_be_direct(one, two)
    world = NatWorld(seed=3)
    if "blocked" in pair:
        assert not expected
    _, a, b = meet(world, one, two)
    want(world, a, b)
    took = until_direct(world, a, b, 8)
    assert (took is not None) == expected, took
    if took is not None:
        assert took < 1.0


def random_nat(rng, number):
    kind = rng.choice(["public", *(["one"] * 8), "carrier"])
    if kind == "public":
        return None

    def one(ip, outside=None):
        return Nat(
            ip,
            rng.choice([NO, NO, NO, AD, PO]),
            rng.choice([NO, AD, PO, PO]),
            timeout=rng.choice([30, 60, 120]) * SECOND,
            hairpin=rng.random() < 0.3,
            inbound_refresh=rng.random() < 0.8,
            preserve=rng.random() < 0.5,
            outside=outside,
        )

    if kind == "one":
        return one(f"5.7.{number}.1")
    return one(f"100.64.{number}.2", one(f"5.8.{number}.1"))


def meetings(count, seed):
    """(pairs that must get direct, that did, seconds each took)."""
    rng = random.Random(seed)  # noqa: S311
    must, did, took = 0, 0, []
    for n in range(count):
        one, two = random_nat(rng, 1), random_nat(rng, 2)
        expected = must_be_direct(one, two)
        world = NatWorld(seed=seed * 100_000 + n, loss=0.02, delay=rng.randrange(5, 60) * MS)
        _, a, b = meet(world, one, two)
        want(world, a, b)
        seconds = until_direct(world, a, b, 12 if expected else 3)
        assert seconds is None or expected or both_move(one, two), (n, one, two)
        must += expected
        if expected and seconds is not None:
            did += 1
            took.append(seconds)
    return must, did, sorted(took)


def test_meetings():
    must, did, took = meetings(25, 1)
    assert did >= 0.98 * must
    assert took[len(took) // 2] < 0.7


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_ten_thousand_meetings():
    must, did, took = meetings(10_000, 2)
    late = took[len(took) * 99 // 100]
    print(f"{must} must, {did} did; median {took[len(took) // 2]:.2f} s, 99 %: {late:.2f} s")
    assert did >= 0.99 * must
