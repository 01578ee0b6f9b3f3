"""Plain or extended mode of one peer (docs/multipath.md section 1).

A session starts plain. Each side offers; who has heard an offer may send frames. A plain WireGuard
peer drops the offers unharmed and hears nothing but IP packets.

Each new keypair is offered on, but for those that only the peer of before can have made: with
Feature.CONTINUE at both ends all goes on under them as it was.
"""

from __future__ import annotations

from whalescale.protocol.control import Feature, Offer
from whalescale.protocol.limits import NS_PER_S

#: again this long after the first offer of a keypair, unless the peer says that it has heard it
RESEND_AFTER = tuple(s * NS_PER_S for s in (1, 2, 4, 8))
#: how long frames go on under a new keypair on which the peer has not offered yet
OFFER_GRACE = 3 * NS_PER_S
#: between two answers to offers: a peer that does not listen is not answered without end
ANSWER_INTERVAL = NS_PER_S // 5
MAX_PATH = 7


class ExtendedMode:
    """The offers of one peer. Inputs return the frame to send, if any. Times are ns."""

    __slots__ = (
        "_answered_at",
        "_epoch",
        "_grace_at",
        "_resends",
        "_said",
        "active",
        "bundles",
        "continued",
        "features",
        "heard",
        "peer_epoch",
        "peer_features",
    )

    def __init__(self, epoch: int, features: Feature) -> None:
        """`features`: what we take."""
        self._epoch = epoch
        self.features = features
        #: the peer's offer holds on the keypair in use
        self.heard = False
        #: the peer has our latest offer
        self._said = False
        self.peer_features = Feature(0)
        self._resends: list[int] = []  # deadlines, earliest last
        self._grace_at: int | None = None
        self._answered_at: int | None = None
        #: frames may be sent
        self.active = False
        #: the peer takes several packets in one frame
        self.bundles = False
        self.peer_epoch: int | None = None
        #: all went on under the keypair in use without an offer of ours, and the peer has not said
        #: since that it began anew
        self.continued = False

    def session_started(self, now: int, *, same: bool = False) -> Offer | None:
        """A new keypair is in use: offer. `same`: a secret of before is in it, so the peer is the
        one that it was."""
        continues = self.features & self.peer_features & Feature.CONTINUE
        self.continued = bool(same and continues and self.active and self.heard and self._said)
        if self.continued:
            return None
        self._grace_at = now + OFFER_GRACE if self.active else None
        return self._anew(now)

    def _anew(self, now: int) -> Offer:
        self.heard = self._said = False
        self._resends = [now + after for after in reversed(RESEND_AFTER)]
        return self._offer()

    def speak(self, features: Feature, now: int) -> Offer | None:
        """Take these from now on: the peer hears of it at once, and answers."""
        if features == self.features:
            return None
        self.features = features
        return self._anew(now) if self.active else None

    def session_ended(self) -> None:
        """No keypair any more; the next one starts plain."""
        self._resends = []
        self._grace_at = None
        self.active = self.heard = self._said = self.continued = False

    def received(self, offer: Offer, now: int) -> Offer | None:
        self.peer_epoch, self.peer_features = offer.epoch, offer.features
        self.active = self.heard = True
        self.bundles = bool(offer.features & Feature.BUNDLE)
        self._grace_at = None
        if offer.heard:
            self._said = True
            self._resends = []
            return None
        if self._answered_at is not None and 0 <= now - self._answered_at < ANSWER_INTERVAL:
            return None
        self._answered_at = now
        self.continued = False
        return self._offer()

    def deadline(self) -> int | None:
        resend = self._resends[-1] if self._resends else None
        if self._grace_at is None or (resend is not None and resend < self._grace_at):
            return resend
        return self._grace_at

    def handle_timeout(self, now: int) -> Offer | None:
        """What `deadline` announced. `active` may have changed afterwards."""
        if self._grace_at is not None and self._grace_at <= now:
            self._grace_at = None
            self.active = False
        due = False
        while self._resends and self._resends[-1] <= now:
            self._resends.pop()
            due = True
        return self._offer() if due else None

    def _offer(self) -> Offer:
        paths = MAX_PATH if self.features & Feature.MULTIPATH else 0
        return Offer(self.heard, paths, self.features, self._epoch)
