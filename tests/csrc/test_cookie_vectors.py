"""Cookies in C and in Python are the same bytes: each takes what the other made."""

from __future__ import annotations

import os
import subprocess
from ipaddress import ip_address

import pytest
from test_csrc import build

from whalescale.identity import Identity
from whalescale.protocol import bootstrap, messages
from whalescale.protocol.cookie import CookieChecker, CookieGenerator
from whalescale.protocol.limits import Limits
from whalescale.protocol.places import Endpoint

SOURCES = [
    Endpoint("192.0.2.7", 51820),
    Endpoint("2001:db8::7", 1),
    Endpoint("fe80::1:2", 65535, 3),
]
LIMITS = Limits()


def ask(*lines: str) -> list[str]:
    run = subprocess.run(
        [build("test_cookie"), "vectors"],
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.split()


def words(remote: Endpoint) -> str:
    return f"{ip_address(remote.ip).packed.hex()} {remote.port:x} {remote.scope_id:x}"


def initiation(generator: CookieGenerator) -> bytes:
    noise = os.urandom(messages.NOISE_1_BYTES)
    return generator.add_macs(messages.encode_initiation(77, noise), 1, LIMITS)


@pytest.mark.parametrize("remote", SOURCES, ids=str)
def test_a_reply_of_c_gives_a_mac2_that_both_take(remote: Endpoint) -> None:
    public, secret = os.urandom(32), os.urandom(32)
    generator = CookieGenerator(public)
    first = initiation(generator)
    (told,) = ask(f"reply {public.hex()} {secret.hex()} {words(remote)} {first.hex()}")
    reply = messages.decode_cookie_reply(bytes.fromhex(told))
    assert messages.message_type(bytes.fromhex(told)) == messages.COOKIE_REPLY
    assert reply.receiver == 77
    assert generator.consume_reply(reply, 1)

    second = initiation(generator)
    elsewhere = remote._replace(port=remote.port ^ 1)
    broken = second[:-1] + bytes([second[-1] ^ 1])
    assert ask(
        f"check {secret.hex()} {words(remote)} {second.hex()}",
        f"check {secret.hex()} {words(elsewhere)} {second.hex()}",
        f"check {secret.hex()} {words(remote)} {broken.hex()}",
        f"check {secret.hex()} {words(remote)} {first.hex()}",
        f"check {os.urandom(32).hex()} {words(remote)} {second.hex()}",
    ) == ["1", "0", "0", "0", "0"]
    checker = CookieChecker(public, LIMITS, lambda n: secret[:n])
    checker.create_reply(first, remote, 1)
    assert checker.check_mac2(second, remote, 1)


def test_c_knows_a_bootstrap_request_for_us_from_any_other() -> None:
    identity, other = Identity.generate(os.urandom), Identity.generate(os.urandom)
    ours = bootstrap.mac_key(identity.fingerprint).hex()
    request = bootstrap.encode_request(identity.fingerprint, os.urandom(32))
    for_other = bootstrap.encode_request(other.fingerprint, os.urandom(32))
    broken = request[:50] + b"\1" + request[51:]
    assert ask(
        *(f"bootstrap {ours} {message.hex()}" for message in (request, for_other, broken))
    ) == ["1", "0", "0"]
