"""One peer's keypairs, rotated as the data plane rotates them."""

from __future__ import annotations


class Session:
    """A keypair that the data plane holds; the core knows its index and age, not its keys."""

    __slots__ = ("created", "initiator", "local_index", "secret")

    def __init__(self, local_index: int, created: int, initiator: bool, secret: int = 0) -> None:
        self.local_index = local_index
        self.created = created
        self.initiator = initiator
        #: the tag of what was mixed in beside the configured preshared key, 0: nothing
        self.secret = secret


class Keypairs:
    """Each change returns the local indices that are free again."""

    __slots__ = ("current", "next", "previous", "zero_at")

    def __init__(self) -> None:
        self.previous: Session | None = None
        self.current: Session | None = None
        self.next: Session | None = None
        #: ns, when all of them are zeroed; None: not armed
        self.zero_at: int | None = None

    def __bool__(self) -> bool:
        """There is one at least."""
        return bool(self.current or self.next or self.previous)

    def install_as_initiator(self, session: Session) -> list[int]:
        """wireguard-go BeginSymmetricSession: the response has confirmed it, so it is current."""
        dropped = [self.previous]
        if self.next is not None:
            self.previous, self.next = self.next, None
            dropped.append(self.current)
        else:
            self.previous = self.current
        self.current = session
        return [s.local_index for s in dropped if s is not None]

    def install_as_responder(self, session: Session) -> list[int]:
        """Not ours to use before the initiator has."""
        dropped = [self.next, self.previous]
        self.next, self.previous = session, None
        return [s.local_index for s in dropped if s is not None]

    def confirm(self) -> list[int]:
        """wireguard-go ReceivedWithKeypair: next becomes current."""
        dropped = self.previous
        self.previous, self.current, self.next = self.current, self.next, None
        return [dropped.local_index] if dropped is not None else []

    def drop(self) -> list[int]:
        held = [s.local_index for s in (self.previous, self.current, self.next) if s is not None]
        self.previous = self.current = self.next = None
        return held
