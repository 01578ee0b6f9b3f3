from __future__ import annotations

from pathlib import Path

import pytest

from whalescale.protocol.paths.tuner import PathTuner
from whalescale.protocol.paths.types import MultipathSettings
from whalescale.runtime.congestion import CongestionControl


@pytest.mark.parametrize(
    ("text", "bbr"), [("bbr\n", True), ("bbr3\n", True), ("cubic\n", False), ("", False)]
)
def test_what_the_host_says(tmp_path: Path, text: str, bbr: bool) -> None:
    file = tmp_path / "tcp_congestion_control"
    file.write_text(text)
    host = CongestionControl(file)
    assert host.is_bbr() is bbr
    file.write_text("reno\n")
    assert host.is_bbr() is False
    file.write_text("bbr\n")
    assert host.is_bbr() is True
    host.close()
    assert host.is_bbr() is False


def test_a_host_that_has_none(tmp_path: Path) -> None:
    host = CongestionControl(tmp_path / "none")
    assert host.is_bbr() is False
    host.close()


@pytest.mark.parametrize(
    ("settings", "align"),
    [
        (MultipathSettings(), 1),
        (MultipathSettings(bbr=True), 2),
        (MultipathSettings(align=False, bbr=True), 0),
    ],
)
def test_what_the_data_plane_is_told(settings: MultipathSettings, align: int) -> None:
    tuner = PathTuner(settings)
    tuner.add(0, 20_000)
    _, peer = tuner.sample({}, {}, 1)
    assert peer is not None
    assert peer.align == align
