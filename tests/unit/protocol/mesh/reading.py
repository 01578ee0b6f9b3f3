"""A second reading of docs/mesh.md, which shares no code with whalescale.protocol.mesh."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from nacl import bindings


def number(data: bytes) -> int:
    return int.from_bytes(data, "little")


def signed_by(key: bytes, label: bytes, data: bytes, signature: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, label + data)
    except InvalidSignature:
        return False
    return True


def public_of(seed: bytes) -> bytes:
    key = Ed25519PrivateKey.from_private_bytes(seed).public_key()
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def blake(data: bytes, size: int) -> bytes:
    return hashlib.blake2s(data, digest_size=size).digest()


def address(family: int, data: bytes) -> str:
    return str(ipaddress.ip_address(data[: {4: 4, 6: 16}[family]]))


def place(data: bytes) -> list[Any]:
    return [address(data[0], data[4:20]), number(data[2:4]), data[1]]


def record(raw: bytes) -> dict[str, Any]:
    """Section 2: the fields, by name."""
    assert raw[1] == 1
    says: dict[str, Any] = {"kind": raw[0], "network": raw[2:18].hex()}
    body = raw[18:-64]
    if raw[0] == 1:
        assert blake(b"whalescale network id" + body[:32], 16) == raw[2:18]
        length = body[40]
        says |= {
            "key": body[:32].hex(),
            "generation": number(body[32:36]),
            "prefix": f"{address(4, body[36:40])}/{length}" if length else None,
            "name": body[42 : 42 + body[41]].decode(),
        }
    elif raw[0] == 2:
        says |= {"node_id": body[:32].hex(), "generation": number(body[32:36]), "status": body[36]}
    elif raw[0] == 3:
        name_at, routes_at = 76, 76 + body[74]
        routes = [body[at : at + 18] for at in range(routes_at, len(body), 18)]
        assert len(routes) == body[75]
        says |= {
            "node_id": body[:32].hex(),
            "issuer": body[32:64].hex(),
            "generation": number(body[64:68]),
            "status": body[68],
            "may_anchor": bool(body[69]),
            "address": address(4, body[70:74]) if any(body[70:74]) else None,
            "name": body[name_at:routes_at].decode(),
            "routes": [f"{address(r[0], r[2:])}/{r[1]}" for r in routes],
        }
    elif raw[0] == 4:
        says |= {
            "node_id": body[:32].hex(),
            "seq": number(body[32:40]),
            "anchor": bool(body[40] & 1),
            "proved": bool(body[40] & 2),
            "places": [place(body[at : at + 20]) for at in range(42, len(body), 20)],
        }
        assert len(says["places"]) == body[41]
    else:
        says |= {
            "node_id": body[:32].hex(),
            "author": body[32:64].hex(),
            "seq": number(body[64:72]),
            "places": [place(body[72:92])],
        }
    return says


def leaf(raw: bytes) -> tuple[int, int, int]:
    """Section 6: key, version and digest of a record."""
    says = record(raw)
    subject = bytes.fromhex(says.get("node_id", ""))
    key = int.from_bytes(blake(subject, 7) + raw[:1], "big")
    version = int(says["generation"] if "generation" in says else says["seq"])
    return key, version, int.from_bytes(blake(raw, 8), "big")


def root(raws: list[bytes]) -> int:
    found = 0
    for raw in raws:
        found ^= leaf(raw)[2]
    return found


def frame(data: bytes) -> dict[str, Any]:
    """Section 5."""
    assert data[1] == 1
    if data[0] == 0x16:
        at, raws = 4, []
        for _ in range(data[2]):
            size = number(data[at : at + 2])
            raws.append(data[at + 2 : at + 2 + size].hex())
            at += 2 + size
        assert at == len(data)
        return {"type": "update", "more": bool(data[3]), "records": raws}
    assert data[0] == 0x17
    if data[2] == 1:
        return {
            "type": "summary",
            "ask": bool(data[3]),
            "root": number(data[4:12]),
            "count": number(data[12:16]),
        }
    if data[2] == 2:
        branches = []
        for n in range(data[3] & 15):
            piece = data[4 + 66 * n : 70 + 66 * n]
            digests = [number(piece[at : at + 4]) for at in range(2, 66, 4)]
            branches.append([number(piece[:2]), digests])
        return {"type": "tree", "level": data[3] >> 4, "branches": branches}
    if data[2] == 3:
        at, twigs = 4, []
        for _ in range(data[3] & 15):
            prefix, count = number(data[at : at + 2]), number(data[at + 2 : at + 4])
            pieces = [data[at + 4 + 16 * n : at + 20 + 16 * n] for n in range(count)]
            leaves = [[number(x[:8]), number(x[8:12]), number(x[12:])] for x in pieces]
            twigs.append([prefix, leaves])
            at += 4 + 16 * count
        assert at == len(data)
        return {"type": "leaves", "level": data[3] >> 4, "twigs": twigs}
    if data[2] == 7:
        assert len(data) >= 384
        avoid = [number(data[65 + 8 * n : 73 + 8 * n]) for n in range(data[64])]
        return {
            "type": "dial_back",
            "by": data[3],
            "token": data[4:12].hex(),
            "node_id": data[12:44].hex(),
            "place": place(data[44:64]),
            "avoid": avoid,
        }
    if data[2] == 8:
        dialler = data[12:44].hex()
        return {
            "type": "dialled", "outcome": data[3], "token": data[4:12].hex(), "dialler": dialler
        }  # fmt: skip
    if data[2] == 9:
        return {"type": "anchor", "alive": bool(data[3]), "node_id": data[4:36].hex()}
    keys = [number(data[4 + 8 * n : 12 + 8 * n]) for n in range(data[3])]
    return {"type": "want", "keys": keys}


def ticket(text: str) -> dict[str, Any]:
    """Section 8."""
    assert text.startswith("wsnet1")
    part = text[6:].upper()
    raw = base64.b32decode(part + "=" * (-len(part) % 8))
    body, check = raw[:-4], raw[-4:]
    assert blake(b"whalescale ticket" + body, 4) == check
    assert body[0] == 1
    secret, at, places = body[49:65], 74, []
    for _ in range(body[73]):
        size = {4: 4, 6: 16}[body[at]]
        places.append([address(body[at], body[at + 3 :]), number(body[at + 1 : at + 3])])
        at += 3 + size
    assert at == len(body)
    return {
        "network": body[1:17].hex(),
        "inviter": body[17:49].hex(),
        "secret": secret.hex(),
        "expires": number(body[65:73]),
        "places": places,
        "one_time": public_of(blake(b"whalescale ticket key" + secret, 32)).hex(),
    }


def present(data: bytes, private: bytes, fingerprint: bytes) -> list[bytes]:
    """Section 8.1."""
    assert len(data) == 580
    assert data[:4] == bytes((0x59, 0, 0, 0))
    key = hashlib.blake2s(b"whalescale bootstrap v1" + fingerprint).digest()
    assert hashlib.blake2s(data[:564], key=key, digest_size=16).digest() == data[564:]
    plain = bindings.crypto_box_seal_open(
        data[4:564], bindings.crypto_scalarmult_base(bytes(private)), bytes(private)
    )
    at, found = 1, []
    for _ in range(plain[0]):
        size = number(plain[at : at + 2])
        found.append(plain[at + 2 : at + 2 + size])
        at += 2 + size
    assert not any(plain[at:])
    return found
