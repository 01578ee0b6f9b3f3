import itertools
import os

import pytest

from whalescale.protocol.cookie import (
    CookieChecker,
    CookieGenerator,
    LoadMonitor,
    RateLimiter,
    source_bytes,
)
from whalescale.protocol.limits import NS_PER_S, Limits
from whalescale.protocol.messages import decode_cookie_reply, encode_initiation
from whalescale.protocol.places import Endpoint

LIMITS = Limits()
PUBLIC = bytes(range(32))
HERE = Endpoint("192.0.2.1", 1000)
S = NS_PER_S


@pytest.fixture
def checker():
    return CookieChecker(PUBLIC, LIMITS, os.urandom)


@pytest.fixture
def generator():
    return CookieGenerator(PUBLIC)


def body():
    return encode_initiation(7, os.urandom(108))


def with_cookie(checker, generator, now):
    message = generator.add_macs(body(), now, LIMITS)
    reply = checker.create_reply(message, HERE, now)
    assert generator.consume_reply(decode_cookie_reply(reply), now)


def test_mac1(checker, generator):
    message = generator.add_macs(body(), 0, LIMITS)
    assert len(message) == 148
    assert message[-16:] == bytes(16)
    assert checker.check_mac1(message)
    for at in range(132):
        forged = bytearray(message)
        forged[at] ^= 1
        assert not checker.check_mac1(bytes(forged))
    other = CookieGenerator(bytes(32)).add_macs(body(), 0, LIMITS)
    assert not checker.check_mac1(other)


def test_mac2_needs_the_cookie_the_source_and_the_message(checker, generator):
    assert not checker.check_mac2(generator.add_macs(body(), 0, LIMITS), HERE, 0)
    with_cookie(checker, generator, 0)
    message = generator.add_macs(body(), 1, LIMITS)
    assert checker.check_mac1(message)
    assert checker.check_mac2(message, HERE, 1)
    for elsewhere in (HERE._replace(port=1001), HERE._replace(ip="192.0.2.2")):
        assert not checker.check_mac2(message, elsewhere, 1)
    for at in range(148):
        forged = bytearray(message)
        forged[at] ^= 1
        assert not checker.check_mac2(bytes(forged), HERE, 1)


def test_the_secret_changes_every_120_s(checker, generator):
    with_cookie(checker, generator, 0)
    message = generator.add_macs(body(), 1, LIMITS)
    assert checker.check_mac2(message, HERE, 120 * S - 1)
    assert not checker.check_mac2(message, HERE, 120 * S)
    fresh = CookieGenerator(PUBLIC)
    with_cookie(checker, fresh, 120 * S)
    assert checker.check_mac2(fresh.add_macs(body(), 121 * S, LIMITS), HERE, 121 * S)
    assert not checker.check_mac2(message, HERE, 121 * S)


def test_a_cookie_is_used_for_115_s(checker, generator):
    with_cookie(checker, generator, 0)
    assert generator.add_macs(body(), 115 * S - 1, LIMITS)[-16:] != bytes(16)
    assert generator.add_macs(body(), 115 * S, LIMITS)[-16:] == bytes(16)


def test_replies_that_are_not_for_us(checker, generator):
    message = generator.add_macs(body(), 0, LIMITS)
    reply = bytearray(checker.create_reply(message, HERE, 0))
    for at in range(8, 64):
        forged = bytearray(reply)
        forged[at] ^= 1
        assert not generator.consume_reply(decode_cookie_reply(bytes(forged)), 0)
    fresh = CookieGenerator(PUBLIC)
    assert not fresh.consume_reply(decode_cookie_reply(bytes(reply)), 0)
    assert generator.consume_reply(decode_cookie_reply(bytes(reply)), 0)
    # once only
    assert not generator.consume_reply(decode_cookie_reply(bytes(reply)), 0)


def test_source_bytes_tell_sources_apart():
    places = [
        HERE,
        Endpoint("192.0.2.1", 1001),
        Endpoint("192.0.2.3", 1000),
        Endpoint("2001:db8::1", 1000),
        Endpoint("fe80::1", 1000, 1),
        Endpoint("fe80::1", 1000, 2),
    ]
    assert len({source_bytes(p) for p in places}) == len(places)


def test_load_of_a_burst_and_hysteresis():
    load = LoadMonitor(Limits(load_backlog=10, load_drain_per_second=5))
    assert [load.count(0) for _ in range(10)] == [False] * 10
    assert load.count(0)
    assert load.is_loaded(S - 1)
    assert not load.is_loaded(S)
    # A second later five have drained.
    assert [load.count(S) for _ in range(6)] == [False] * 5 + [True]


def test_load_stays_while_messages_keep_coming():
    load = LoadMonitor(Limits(load_backlog=10, load_drain_per_second=5))
    seen = [load.count(n * S // 20) for n in range(400)]  # 20 a second
    assert not any(seen[:10])
    assert all(seen[30:])
    assert not load.is_loaded(25 * S)


def test_load_never_below_its_rate():
    load = LoadMonitor(LIMITS)
    assert not any(load.count(n * S // 250) for n in range(20_000))


def test_ratelimit_burst_and_rate():
    limiter = RateLimiter(LIMITS)
    assert [limiter.allow(HERE, 0) for _ in range(7)] == [True] * 5 + [False] * 2
    assert [limiter.allow(HERE, S // 20) for _ in range(2)] == [True, False]
    assert limiter.allow(Endpoint("192.0.2.9", 1), 0)
    # another port is the same source
    assert not limiter.allow(HERE._replace(port=9), S // 20)
    allowed = sum(limiter.allow(HERE, S + n * S // 1000) for n in range(10_000))
    assert 200 <= allowed <= 206


def test_ratelimit_counts_an_ipv6_network_as_one():
    limiter = RateLimiter(LIMITS)
    sources = (Endpoint(f"2001:db8::{n}", 1) for n in itertools.count(1))
    assert sum(limiter.allow(next(sources), 0) for _ in range(50)) == 5
    assert limiter.allow(Endpoint("2001:db8:0:1::1", 1), 0)


def test_ratelimit_table_is_bounded_and_recovers():
    limits = Limits(ratelimit_entries=100)
    limiter = RateLimiter(limits)
    sources = [Endpoint(f"10.0.{n >> 8}.{n & 255}", 1) for n in range(300)]
    assert sum(limiter.allow(s, 0) for s in sources) == 100
    assert len(limiter) == 100
    assert sum(limiter.allow(s, 2 * S) for s in sources) == 100
    assert len(limiter) == 100
    assert limiter.allow(sources[299], 4 * S)
    assert len(limiter) == 1
