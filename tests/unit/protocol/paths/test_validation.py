"""What validates a path: our own token, from the path's own address, and nothing else."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest

from whalescale.protocol.control import FrameType, frame_type
from whalescale.protocol.paths import frames
from whalescale.protocol.paths.frames import Probe, ProbeReply
from whalescale.protocol.paths.manager import PathManager
from whalescale.protocol.paths.probing import PROBE_DATAGRAM
from whalescale.protocol.paths.tuner import PathTuner
from whalescale.protocol.paths.types import (
    MultipathSettings,
    PathState,
    SendPathControl,
    TunePeer,
)
from whalescale.protocol.places import Endpoint, LocalLink

HERE, OTHER_HERE = Endpoint("10.0.0.1", 51820), Endpoint("10.1.0.1", 51820)
THERE, ELSEWHERE = Endpoint("10.0.0.2", 51820), Endpoint("10.9.0.9", 51820)


class Probing:
    """A manager whose path 0 waits for the answer to its first probe."""

    def __init__(self) -> None:
        self.now = 0
        self.manager = PathManager(
            MultipathSettings(),
            random.Random(1).randbytes,  # noqa: S311
            HERE.port,
            tuner=PathTuner,
        )
        self.manager.set_locals([LocalLink(HERE.ip, 2, "eth0", 1500)], self.now)
        self.manager.primary(THERE, HERE, self.now)
        self.manager.session_started(self.now)
        self.probe = self.next_probe()

    def next_probe(self) -> Probe:
        for _ in range(100):
            while (action := self.manager.poll_action()) is not None:
                if (
                    isinstance(action, SendPathControl)
                    and frame_type(action.frame) is FrameType.PATH_PROBE
                ):
                    return frames.decode_probe(action.frame)
            due = self.manager.deadline()
            assert due is not None
            self.now = max(self.now, due)
            self.manager.handle_timeout(self.now)
        raise AssertionError("no probe")

    def receive(self, frame: bytes, remote: Endpoint, local: Endpoint, size: int = 80) -> None:
        self.now += 10_000_000
        self.manager.receive(frame, 0, remote, local, size, self.now)

    def answer(self, **changes: object) -> bytes:
        reply = ProbeReply(0, False, self.probe.token, self.probe.sent, 80, HERE, hold_us=0)
        return frames.encode_reply(replace(reply, **changes))  # type: ignore[arg-type]

    @property
    def state(self) -> PathState:
        return self.manager.status()[0].state


def test_the_answer_from_there_validates() -> None:
    probing = Probing()
    assert probing.state is not PathState.HEALTHY
    probing.receive(probing.answer(), THERE, HERE)
    assert probing.state is PathState.HEALTHY
    assert probing.manager.drops == Counter()
    # Once only: the token is used up.
    probing.receive(probing.answer(), THERE, HERE)
    assert probing.manager.drops == Counter(probe_token=1)


def test_a_token_that_is_not_ours() -> None:
    probing = Probing()
    forged = bytes(b ^ 1 for b in probing.probe.token)
    probing.receive(probing.answer(token=forged), THERE, HERE)
    assert probing.state is not PathState.HEALTHY
    assert probing.manager.drops == Counter(probe_token=1)
    # What was asked is still waited for.
    probing.receive(probing.answer(), THERE, HERE)
    assert probing.state is PathState.HEALTHY


@pytest.mark.parametrize(("remote", "local"), [(ELSEWHERE, HERE), (THERE, OTHER_HERE)])
def test_an_answer_from_elsewhere(remote: Endpoint, local: Endpoint) -> None:
    probing = Probing()
    probing.receive(probing.answer(), remote, local)
    assert probing.state is not PathState.HEALTHY
    assert probing.manager.drops["probe_source"] == 1


def test_a_probe_shorter_than_its_reply_is_not_answered() -> None:
    probing = Probing()
    probe = frames.encode_probe(Probe(0, bytes(len(probing.probe.token)), 0, PROBE_DATAGRAM))
    probing.receive(probe, THERE, HERE, size=PROBE_DATAGRAM - 1)
    assert probing.manager.drops == Counter(probe_short=1)
    while (action := probing.manager.poll_action()) is not None:
        assert not (
            isinstance(action, SendPathControl)
            and frame_type(action.frame) is FrameType.PATH_PROBE_REPLY
        )


def test_other_settings_are_told_at_once() -> None:
    """At rest nothing is sampled for half a minute, and the next flow would begin without them."""
    probing = Probing()
    probing.receive(probing.answer(), THERE, HERE)
    probing.manager.sample({}, probing.now)
    while probing.manager.poll_action() is not None:
        pass
    probing.manager.set_settings(MultipathSettings(bbr=True), probing.now)
    told = [a.params for a in iter(probing.manager.poll_action, None) if isinstance(a, TunePeer)]
    assert [params.align for params in told] == [2]
