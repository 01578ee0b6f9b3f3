"""A peer with three paths, one of them failed, as an agent tells of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RAW = (Path(__file__).parent / "status.json").read_text()


def path(number: int, interface: str, local: str, **fields: Any) -> dict[str, Any]:
    return {
        "id": number,
        "local": f"{local}:51820",
        "remote": "192.0.2.7:51820",
        "interface": interface,
        "state": "healthy",
        "usable": True,
        "rtt_ms": 21.312,
        "rtt_min_ms": 20.05,
        "jitter_ms": 1.24,
        "loss": 0.0013,
        "rate_bps": 38_200_000,
        "acked_bps": 31_000_000,
        "weight": 0.67,
        "queue_ms": 4.1,
        "in_flight_bytes": 122_880,
        "max_packet": 1420,
        "tx_bytes": 1_300_000_000,
        "rx_bytes": 12_700_000,
        "pin": {"disabled": False, "tier": None, "weight_cap": 1.0},
        "heard_s": 0.4,
        **fields,
    }


def three() -> dict[str, Any]:
    """status.json, its first peer with paths over a cable (failed), WiFi and 5G."""
    value: dict[str, Any] = json.loads(RAW)
    unknown = dict.fromkeys(("rtt_ms", "rtt_min_ms", "jitter_ms"))
    nothing = dict.fromkeys(("loss", "rate_bps", "acked_bps", "weight", "queue_ms"), 0)
    value["peers"][0]["extended"] = True
    value["peers"][0]["multipath"] = {
        "scheduling": True,
        "scheduler": "edf",
        "paths": [
            path(0, "eth0", "192.0.2.1", state="failed", usable=False, **unknown, **nothing),
            path(1, "wlan0", "10.9.0.1"),
            path(
                2,
                "wwan0",
                "203.0.113.9",
                state="degraded",
                weight=0.33,
                loss=0.081,
                rate_bps=9_400_000,
                rtt_ms=61.0,
                tx_bytes=400_000_000,
                pin={"disabled": False, "tier": 2, "weight_cap": 0.5},
            ),
        ],
        "reordering": {
            "depth": 12,
            "depth_max": 128,
            "delivered": 40_000,
            "in_order": 30_000,
            "held": 10_000,
            "gaps": 120,
            "gaps_filled": 118,
            "skipped": 2,
            "skipped_full": 0,
            "late": 1,
            "duplicates": 0,
            "refused": 0,
            "wait_us": 12_000_000,
            "wait_max_us": 20_400,
        },
        "queue": {"packets": 12, "bytes": 17_040, "drops": 3},
        "urgent": 120,
        "again": 4,
        "acks_tx": 1200,
        "acks_rx": 1180,
        "ack_refused": 0,
    }
    value["events"] += [
        {"t": 1700000002.0, "peer": "berlin", "event": "path 1 up: wlan0 10.9.0.1 to 192.0.2.7"},
        {"t": 1700000003.0, "peer": "berlin", "event": "path 0 failed: eth0 192.0.2.1: silent"},
        {
            "t": 1700000004.0,
            "peer": "berlin",
            "event": "path 3 removed: wwan1: its address is gone",
        },
    ]
    return value


def later(value: dict[str, Any], seconds: float, **bytes_of: tuple[int, int]) -> dict[str, Any]:
    """`seconds` on, with (tx, rx) more bytes by interface."""
    value = json.loads(json.dumps(value))
    value["agent"]["uptime_s"] += seconds
    for p in value["peers"][0]["multipath"]["paths"]:
        tx, rx = bytes_of.get(p["interface"], (0, 0))
        p["tx_bytes"] += tx
        p["rx_bytes"] += rx
    return value
