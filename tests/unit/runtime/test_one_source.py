"""What stands in C and in Python is the same: messages, frames, parameters, samples."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from whalescale.dataplane import multipath as dataplane
from whalescale.dataplane.engine import ffi, lib
from whalescale.protocol import control, extended, messages
from whalescale.protocol.control import FrameType
from whalescale.protocol.paths import types
from whalescale.runtime import frames

ROOT = Path(__file__).parents[3]


def wire() -> dict[str, int]:
    """The enum of shared/wire.h."""
    text = re.sub(r"/\*.*?\*/", "", (ROOT / "shared/wire.h").read_text(), flags=re.DOTALL)
    values: dict[str, int] = {}
    for name, value in re.findall(r"\b(WS_\w+) =\s*([^,}]+)", text):
        parts = [part.strip() for part in value.split("|")]
        values[name] = sum(values[p] if p in values else int(p, 0) for p in parts)
    return values


WIRE = wire()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MSG_INITIATION", messages.INITIATION),
        ("MSG_RESPONSE", messages.RESPONSE),
        ("MSG_COOKIE_REPLY", messages.COOKIE_REPLY),
        ("MSG_TRANSPORT", messages.TRANSPORT),
        ("MSG_BOOTSTRAP_REQUEST", messages.BOOTSTRAP_REQUEST),
        ("MSG_BOOTSTRAP_REPLY", messages.BOOTSTRAP_REPLY),
        ("MSG_PRESENT", messages.PRESENT),
        ("INITIATION_BYTES", messages.INITIATION_BYTES),
        ("RESPONSE_BYTES", messages.RESPONSE_BYTES),
        ("COOKIE_REPLY_BYTES", messages.COOKIE_REPLY_BYTES),
        ("BOOTSTRAP_BYTES", messages.BOOTSTRAP_BYTES),
        ("PRESENT_BYTES", messages.PRESENT_BYTES),
        ("MAC_BYTES", messages.MAC_BYTES),
        ("FRAME_HEADER_BYTES", frames.FRAME_HEADER_BYTES),
        ("CONTROL_OFFER", FrameType.OFFER),
        ("CONTROL_PATH_ANNOUNCE", FrameType.PATH_ANNOUNCE),
        ("CONTROL_PATH_PROBE", FrameType.PATH_PROBE),
        ("CONTROL_PATH_PROBE_REPLY", FrameType.PATH_PROBE_REPLY),
        ("CONTROL_HEARTBEAT", FrameType.HEARTBEAT),
        ("CONTROL_ACK", FrameType.ACK),
        ("CONTROL_VERSION", control.VERSION),
        ("PATH_COUNT", extended.MAX_PATH + 1),
        ("PATH_COUNT", dataplane.MAX_PATHS),
        ("PATH_COUNT", control.ACK_MAX_PATHS),
        ("PATH_COUNT", lib.WS_MAX_PATHS),
    ],
)
def test_what_is_on_the_wire_is_the_same_in_c(name: str, value: int) -> None:
    assert WIRE[f"WS_{name}"] == value


def test_every_message_but_a_transport_one_has_one_length_in_both() -> None:
    """ws_exact_bytes serves the workers and the eBPF shield; messages.py has its own table."""
    text = (ROOT / "shared/wire.h").read_text()
    body = text[text.index("ws_exact_bytes") :]
    lengths: dict[int, int] = {}
    names: list[str] = []
    for case, value in re.findall(r"case (\w+):|return (\w+);", body):
        if case:
            names.append(case)
        elif value != "0":
            lengths |= {WIRE[name]: WIRE[value] for name in names}
            names = []
    assert {kind: (n, n) for kind, n in lengths.items()} == messages.LENGTHS


@pytest.mark.parametrize(
    ("shape", "fields", "struct"),
    [
        (types.PathSample, dataplane.PATH_FIELDS, "struct ws_path_stats"),
        (types.PathParams, dataplane.PATH_PARAMS, "struct ws_path_params"),
        (types.PeerParams, dataplane.PEER_PARAMS, "struct ws_multipath_params"),
    ],
)
def test_parameters_and_samples_have_the_names_that_they_have_in_c(
    shape: type, fields: tuple[str, ...], struct: str
) -> None:
    assert tuple(shape.__dataclass_fields__) == fields  # type: ignore[attr-defined]
    assert set(fields) <= {name for name, _ in ffi.typeof(struct).fields}


def test_the_schedulers_have_the_same_numbers() -> None:
    assert [s.name for s in types.Scheduler] == [s.name for s in dataplane.Scheduler]
