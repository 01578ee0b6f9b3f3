"""Noise_IKpsk2 handshakes over `noiseprotocol`: create and consume, never send.

Reads internals of noiseprotocol 0.3.1 (pinned): ephemerals come from our `random` by being put
into `handshake_state.e`; the PSK is set once message 1 has said which peer this is; the remote
static key is read before message 2, for the library deletes the handshake state on completion.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from noise.backends.default.keypairs import KeyPair25519
from noise.connection import NoiseConnection
from noise.exceptions import (
    NoiseHandshakeError,
    NoiseInvalidMessage,
    NoiseMaxNonceError,
    NoiseValueError,
)

from whalescale.protocol.tai64n import TIMESTAMP_BYTES

CONSTRUCTION: Final = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"
IDENTIFIER: Final = b"WireGuard v1 zx2c4 Jason@zx2c4.com"
PSK_BYTES: Final = 32
NO_PSK: Final = bytes(PSK_BYTES)

Random = Callable[[int], bytes]

#: What the library lets out on hostile input; ValueError also is the all-zero shared secret.
_REFUSALS: Final = (
    InvalidTag,
    NoiseValueError,
    NoiseInvalidMessage,
    NoiseHandshakeError,
    NoiseMaxNonceError,
    ValueError,
)


class HandshakeError(Exception):
    """The message is not authentic, or a key in it is of low order."""


class KeyPair:
    """An X25519 key in the form that the library wants, parsed once."""

    __slots__ = ("_pair",)

    def __init__(self, pair: Any) -> None:
        self._pair = pair

    @classmethod
    def from_private(cls, private: bytes | bytearray) -> KeyPair:
        return cls(KeyPair25519.from_private_bytes(private))

    @classmethod
    def from_public(cls, public: bytes) -> KeyPair:
        return cls(KeyPair25519.from_public_bytes(public))

    @property
    def raw(self) -> Any:
        return self._pair

    def shares_secret_with(self, other: KeyPair) -> bool:
        """Whether the shared secret is not all zero: False for a public key of low order."""
        try:
            self._pair.private.exchange(other.raw.public)
        except ValueError:
            return False
        return True


def _connection(initiator: bool, static: KeyPair) -> Any:
    connection = NoiseConnection.from_name(CONSTRUCTION)
    protocol = connection.noise_protocol
    protocol.keypairs["s"] = static.raw
    protocol.psks = [NO_PSK]
    connection.set_prologue(IDENTIFIER)
    if initiator:
        connection.set_as_initiator()
    else:
        connection.set_as_responder()
    return connection


def _ephemeral(connection: Any, random: Random) -> None:
    connection.noise_protocol.handshake_state.e = KeyPair25519.from_private_bytes(random(32))


class TransportKeys:
    """The keys of one direction each, as bytearrays that their last holder zeroes."""

    __slots__ = ("receive", "send")

    def __init__(self, connection: Any) -> None:
        protocol = connection.noise_protocol
        self.send = bytearray(protocol.cipher_state_encrypt.k)
        self.receive = bytearray(protocol.cipher_state_decrypt.k)


class InitiatorHandshake:
    """One initiation of ours that waits for its response."""

    __slots__ = ("_connection", "message")

    def __init__(
        self, static: KeyPair, remote: KeyPair, psk: bytes, timestamp: bytes, random: Random
    ) -> None:
        """`message` becomes Noise message 1. HandshakeError: the remote key is of low order."""
        connection = _connection(True, static)
        connection.noise_protocol.keypairs["rs"] = remote.raw
        connection.noise_protocol.psks = [psk]
        connection.start_handshake()
        _ephemeral(connection, random)
        self._connection: Any = connection
        try:
            self.message = bytes(connection.write_message(timestamp))
        except _REFUSALS as error:
            raise HandshakeError from error

    def consume_response(self, message: bytes, psk: bytes | None = None) -> TransportKeys:
        """Finish with Noise message 2. `psk`: in place of the one that it was made with.

        HandshakeError: it is not authentic. The library has then mixed forged bytes into its
        state, so that is put back: a later, true response still completes the handshake.
        """
        connection = self._connection
        state = connection.noise_protocol.handshake_state
        symmetric = state.symmetric_state
        # The cipher's key need not be kept: message 2 begins with MixKey.
        kept = (symmetric.h, symmetric.ck, state.message_patterns[:])
        psks = list(connection.noise_protocol.psks)
        if psk is not None:
            connection.noise_protocol.psks = [psk]
        try:
            payload = connection.read_message(message)
        except _REFUSALS as error:
            symmetric.h, symmetric.ck, state.message_patterns = kept
            connection.noise_protocol.psks = psks
            connection._next_fn = connection.read_message
            raise HandshakeError from error
        if payload:
            raise HandshakeError
        return TransportKeys(connection)


class ResponderHandshake:
    """One initiation from a peer, consumed; `create_response` finishes it."""

    __slots__ = ("_connection", "_random", "remote_static", "timestamp")

    def __init__(self, static: KeyPair, message: bytes, random: Random) -> None:
        """`remote_static` (X25519) and `timestamp` are proven. HandshakeError: not authentic."""
        connection = _connection(False, static)
        connection.start_handshake()
        try:
            payload = bytes(connection.read_message(message))
        except _REFUSALS as error:
            raise HandshakeError from error
        if len(payload) != TIMESTAMP_BYTES:
            raise HandshakeError
        self._connection: Any = connection
        self._random = random
        self.remote_static = bytes(connection.noise_protocol.handshake_state.rs.public_bytes)
        self.timestamp = payload

    def create_response(self, psk: bytes) -> tuple[bytes, TransportKeys]:
        """Noise message 2 and the transport keys. HandshakeError: an ephemeral of low order."""
        connection = self._connection
        connection.noise_protocol.psks = [psk]
        _ephemeral(connection, self._random)
        try:
            message = bytes(connection.write_message(b""))
        except _REFUSALS as error:
            raise HandshakeError from error
        return message, TransportKeys(connection)
