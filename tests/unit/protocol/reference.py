"""WireGuard's handshake written straight from the whitepaper, section 5.4. For tests only.

Shares no code with `whalescale.protocol`: `cryptography` for the curve and the AEAD, hashlib and
hmac for the rest, XChaCha20-Poly1305 from HChaCha20's definition. Run as a program it writes
tests/vectors/handshake.json.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
import sys
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

VECTORS = Path(__file__).parents[2] / "vectors" / "handshake.json"


def HASH(data: bytes) -> bytes:
    return hashlib.blake2s(data).digest()


def MAC(key: bytes, data: bytes) -> bytes:
    return hashlib.blake2s(data, key=key, digest_size=16).digest()


def HMAC(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, hashlib.blake2s).digest()


def KDF(n: int, key: bytes, data: bytes) -> list[bytes]:
    t0 = HMAC(key, data)
    out: list[bytes] = []
    last = b""
    for i in range(1, n + 1):
        last = HMAC(t0, last + bytes((i,)))
        out.append(last)
    return out


def DH(private: bytes, public: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).exchange(
        X25519PublicKey.from_public_bytes(public)
    )


def PUB(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def AEAD(key: bytes, counter: int, plain: bytes, ad: bytes) -> bytes:
    return ChaCha20Poly1305(key).encrypt(bytes(4) + struct.pack("<Q", counter), plain, ad)


def hchacha20(key: bytes, nonce: bytes) -> bytes:
    """draft-irtf-cfrg-xchacha-03 section 2.2."""
    s = list(struct.unpack("<4I8I4I", b"expand 32-byte k" + key + nonce))

    def quarter(a: int, b: int, c: int, d: int) -> None:
        for x, y, z, r in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            s[x] = (s[x] + s[y]) & 0xFFFFFFFF
            v = s[z] ^ s[x]
            s[z] = ((v << r) | (v >> (32 - r))) & 0xFFFFFFFF

    for _ in range(10):
        for i in range(4):
            quarter(i, i + 4, i + 8, i + 12)
        for i in range(4):
            quarter(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4)
    return struct.pack("<8I", *s[:4], *s[12:])


def XAEAD(key: bytes, nonce: bytes, plain: bytes, ad: bytes) -> bytes:
    sub = hchacha20(key, nonce[:16])
    return ChaCha20Poly1305(sub).encrypt(bytes(4) + nonce[16:], plain, ad)


C0 = HASH(b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s")
H0 = HASH(C0 + b"WireGuard v1 zx2c4 Jason@zx2c4.com")


def handshake(i: dict[str, Any]) -> dict[str, bytes]:
    """Messages 1, 2 and 3 and the transport keys, from every secret and random input."""
    si_pub, sr_pub = PUB(i["initiator_static"]), PUB(i["responder_static"])
    ei, er = i["initiator_ephemeral"], i["responder_ephemeral"]

    # 5.4.2 First message
    c, h = C0, HASH(H0 + sr_pub)
    e = PUB(ei)
    (c,) = KDF(1, c, e)
    h = HASH(h + e)
    c, k = KDF(2, c, DH(ei, sr_pub))
    static = AEAD(k, 0, si_pub, h)
    h = HASH(h + static)
    c, k = KDF(2, c, DH(i["initiator_static"], sr_pub))
    stamp = AEAD(k, 0, i["timestamp"], h)
    h = HASH(h + stamp)
    m1 = struct.pack("<B3xI", 1, i["initiator_index"]) + e + static + stamp
    m1 += MAC(HASH(b"mac1----" + sr_pub), m1)
    m1 += bytes(16)

    # 5.4.3 Second message
    e = PUB(er)
    (c,) = KDF(1, c, e)
    h = HASH(h + e)
    (c,) = KDF(1, c, DH(er, PUB(ei)))
    (c,) = KDF(1, c, DH(er, si_pub))
    c, t, k = KDF(3, c, i["psk"])
    h = HASH(h + t)
    empty = AEAD(k, 0, b"", h)
    m2 = struct.pack("<B3xII", 2, i["responder_index"], i["initiator_index"]) + e + empty
    m2 += MAC(HASH(b"mac1----" + si_pub), m2)
    m2 += bytes(16)

    # 5.4.5 Transport keys: the initiator sends with the first
    t_send, t_receive = KDF(2, c, b"")

    # 5.4.7 Cookie reply to message 1, and 5.4.4 message 1's macs once the cookie is there
    cookie = MAC(i["cookie_secret"], i["source"])
    sealed = XAEAD(HASH(b"cookie--" + sr_pub), i["cookie_nonce"], cookie, m1[116:132])
    m3 = struct.pack("<B3xI", 3, i["initiator_index"]) + i["cookie_nonce"] + sealed
    return {
        "initiation": m1,
        "response": m2,
        "cookie_reply": m3,
        "mac2": MAC(cookie, m1[:132]),
        "initiator_send_key": t_send,
        "responder_send_key": t_receive,
    }


def derived(label: str) -> bytes:
    """Inputs that nobody chose: hashes of their names."""
    return hashlib.blake2s(label.encode()).digest()


def inputs(psk: bytes) -> dict[str, Any]:
    return {
        # Ed25519 seeds are expanded by SHA-512 (RFC 8032); these are the X25519 private keys.
        "initiator_seed": derived("initiator seed"),
        "responder_seed": derived("responder seed"),
        "initiator_static": hashlib.sha512(derived("initiator seed")).digest()[:32],
        "responder_static": hashlib.sha512(derived("responder seed")).digest()[:32],
        "initiator_ephemeral": derived("initiator ephemeral"),
        "responder_ephemeral": derived("responder ephemeral"),
        "psk": psk,
        # 2020-09-13 12:26:40.5 UTC: 2**62 + 10 + 1.6e9 s, nanoseconds with 24 low bits cleared
        "timestamp": struct.pack(">QI", 2**62 + 10 + 1_600_000_000, 500_000_000 & ~0xFFFFFF),
        "initiator_index": 0x01020304,
        "responder_index": 0xFFFEFDFC,
        "cookie_secret": derived("cookie secret"),
        "cookie_nonce": derived("cookie nonce")[:24],
        # 192.0.2.7, port 51820, no zone: our own choice of what a cookie is bound to
        "source": bytes((192, 0, 2, 7)) + struct.pack("<HI", 51820, 0),
    }


def vectors() -> list[dict[str, Any]]:
    made = []
    for name, psk in (("without psk", bytes(32)), ("with psk", derived("psk"))):
        given = inputs(psk)
        made.append({"name": name, "in": given, "out": handshake(given)})
    return made


def to_json(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {k: to_json(v) for k, v in value.items()}
    if isinstance(value, list):
        return [to_json(v) for v in value]
    return value


def from_json(value: Any) -> Any:
    """The inverse; "name" is the only text that is not hex."""
    if isinstance(value, dict):
        return {k: v if k == "name" else from_json(v) for k, v in value.items()}
    if isinstance(value, list):
        return [from_json(v) for v in value]
    return bytes.fromhex(value) if isinstance(value, str) else value


if __name__ == "__main__":
    VECTORS.write_text(json.dumps(to_json(vectors()), indent=2) + "\n")
    sys.stdout.write(f"{VECTORS}\n")
