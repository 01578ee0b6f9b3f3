"""What `ws join` says where nobody answers."""

from __future__ import annotations

import pytest

from whalescale.protocol.mesh.invite import Ticket
from whalescale.protocol.places import Endpoint
from whalescale.runtime.joining import no_answer

TICKET = Ticket(bytes(16), bytes(32), bytes(16), 1_000_000, (Endpoint("192.0.2.7", 51820),))


@pytest.mark.parametrize(
    ("late_s", "said"),
    [
        (-1, None),
        (0, "expired 1 min ago"),
        (3_599, "expired 60 min ago"),
        (9e4, "expired 25 h ago"),
    ],
)
def test_an_expired_ticket_is_named(late_s: float, said: str | None) -> None:
    """Its key is let in no more, so nobody is there to say so."""
    error = no_answer(TICKET, TICKET.expires + late_s)
    assert error.message.startswith("no answer from the inviter at 192.0.2.7 port 51820")
    if said is None:
        assert "expired" not in error.message
        assert "agent runs" in error.fix
    else:
        assert said in error.message
        assert "ws invite" in error.fix
