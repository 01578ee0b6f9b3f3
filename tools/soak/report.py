"""Outcomes as files, and all of them as one table."""

from __future__ import annotations

import json
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tools.soak.conductor import ROOT, Outcome

FOLDER = ROOT / "build/soak"
#: counts of a run, in the table's order
ROWS = (
    ("kills", "`kill -9` of an agent, and a start"),
    ("kills while it starts", "… of those, in the middle of its start"),
    ("cuts", "links cut (silent, or down at either end)"),
    ("cuts of every link", "… all of them at once"),
    ("readdressings", "an end's address changed"),
    ("NAT rebindings", "NAT that forgot its mappings"),
    ("suspends", "suspends longer than a key lives"),
    ("sessions", "sessions seen, at both ends"),
    ("reloads", "`ws reload`, mostly with a changed file"),
    ("wg set", "`wg set`"),
    ("floods", "floods of 20,000 datagrams a second"),
    ("hostile datagrams", "hostile datagrams from the router (forged, replayed, mutated)"),
)


def revision() -> str:
    """The commit, with a + where the tree is another."""
    words = ("git", "describe", "--always", "--dirty=+", "--exclude=*", "--abbrev=7")
    done = subprocess.run(words, cwd=ROOT, check=False, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def save(outcome: Outcome, folder: Path = FOLDER) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"soak-{time.strftime('%Y%m%d-%H%M%S')}-{outcome.seed}.json"
    path.write_text(json.dumps({"kind": "soak", "revision": revision(), **asdict(outcome)}))
    return path


def save_fuzz(
    name: str, seconds: float, runs: int, datagrams: int, failed: bool, folder: Path = FOLDER
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"fuzz-{time.strftime('%Y%m%d-%H%M%S')}-{name}.json"
    said = {"kind": "fuzz", "revision": revision(), "name": name, "seconds": seconds}
    path.write_text(json.dumps({**said, "runs": runs, "datagrams": datagrams, "failed": failed}))
    return path


def read(paths: Iterable[Path]) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(paths)]


def joined(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All runs as one: sums of counts, the worst of figures, every fault."""
    counts: Counter[str] = Counter()
    figures: dict[str, float] = {}
    faults: list[str] = []
    runs, fuzzers = [], []
    for result in results:
        if result["kind"] == "fuzz":
            fuzzers.append(result)
            if result["failed"]:
                faults.append(f"fuzz_{result['name']} found a failing input")
            continue
        runs.append({k: result[k] for k in ("revision", "seed", "seconds")})
        counts.update(result["counts"])
        for name, value in result["figures"].items():
            worst = name.startswith(("longest", "growth", "rss", "recovery"))
            figures[name] = (
                max(figures.get(name, 0), value) if worst else (figures.get(name, 0) + value)
            )
        faults += [f"{result['revision']}, seed {result['seed']}: {f}" for f in result["faults"]]
    counts["sessions"] = sum(n for k, n in counts.items() if k.startswith("sessions seen at"))
    return {
        "version": 1,
        "runs": runs,
        "counts": dict(counts),
        "figures": figures,
        "fuzzers": fuzzers,
        "fuzzed_datagrams": sum(f["datagrams"] for f in fuzzers),
        "fuzzed_runs": sum(f["runs"] for f in fuzzers),
        "faults": faults,
    }


def number(value: float) -> str:
    if value >= 1e7:
        exponent = len(str(int(value))) - 1
        return f"{value / 10**exponent:.1f}·10^{exponent}"
    return f"{int(value):,}"


def table(total: dict[str, Any]) -> str:
    """Markdown: what was survived, and what came through meanwhile."""
    counts, figures = total["counts"], total["figures"]
    seconds = sum(run["seconds"] for run in total["runs"])
    revisions = sorted({run["revision"] for run in total["runs"]})
    seeds = ", ".join(str(run["seed"]) for run in total["runs"])
    lines = ["| what | how often |", "|---|---|"]
    lines += [f"| {said} | {number(counts.get(name, 0))} |" for name, said in ROWS]
    lines.append(
        f"| hostile datagrams in the fuzzers of the receive path | "
        f"{number(total['fuzzed_datagrams'])} |"
    )
    both = [figures.get(f"udp_received_by_{s}", 0) for s in "ab"]
    streams = sum(figures.get(f"stream_bytes_to_{s}", 0) for s in "ab")
    most = max((v for k, v in figures.items() if k.startswith("longest_beyond")), default=0.0)
    lines += [
        f"| inner datagrams and pings that came, each checked | "
        f"{number(sum(both) + figures.get('ping_answers', 0))} |",
        f"| bytes over the TCP connections that lived all the time | {number(streams)} |",
        f"| short TCP connections | {number(figures.get('connections', 0))} |",
        f"| packets after a kill's restart: median, longest | "
        f"{figures.get('recovery_median_s', 0):.2f} s, {figures.get('recovery_most_s', 0):.2f} s |",
        f"| longest stall beyond what the cut itself costs | {most:.2f} s |",
        f"| most that a settled agent's memory grew | "
        f"{max(figures.get(f'growth_kib_{s}', 0) for s in 'ab'):.0f} KiB |",
        f"| **faults** | **{len(total['faults'])}** |",
    ]
    head = (
        f"{len(total['runs'])} runs, {seconds / 60:.0f} minutes, seeds {seeds}, "
        f"revision {', '.join(revisions)}"
    )
    return "\n".join([head, "", *lines])
