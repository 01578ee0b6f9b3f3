"""What commands import: 150 ms is the promise, and each of these is a part of it. A command that
needs one of them is not in the list; `python -m tools.starttimes` measures the times."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from fake_agent import FakeAgent

#: of the agent, of what measures, or of what few commands need
HEAVY = (
    *("typer", "asyncio", "pyroute2", "nacl", "cffi", "cryptography", "tomlkit", "zeroconf", "dns"),
    *("prometheus_client", "segno", "noise", "whalescale.agent", "whalescale.runtime"),
    *("whalescale.dataplane", "whalescale.protocol", "whalescale.trace", "whalescale.bench"),
)
#: words of a run, and how many modules it may have imported (some more than when it was written)
RUNS = {
    "version": 100,
    "status": 205,
    "status --json": 125,
    "peers": 205,
    "paths": 205,
    "top -n 1": 215,
    "reload": 110,
    "down": 135,
}
# One process has what all have in common, and forks for each.
EACH = """
import json, os, sys
from whalescale.cli.main import main
for words in json.loads(sys.argv[1]):
    sys.stdout.flush()
    if os.fork() == 0:
        out = os.dup(1)
        os.dup2(os.open("/dev/null", os.O_WRONLY), 1)
        code = main(words.split())
        sys.stdout.flush()
        os.write(out, (json.dumps([words, code, sorted(sys.modules)]) + "\\n").encode())
        os._exit(0)
    os.wait()
"""


def test_commands_import_what_they_need(agent: FakeAgent) -> None:
    done = subprocess.run(
        [sys.executable, "-c", EACH, json.dumps(list(RUNS))],
        capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "80"},
    )  # fmt: skip
    told = {w: (code, modules) for w, code, modules in map(json.loads, done.stdout.splitlines())}
    assert set(told) == set(RUNS), done.stderr
    for words, (code, modules) in told.items():
        assert code == 0, (words, done.stderr)
        heavy = [h for h in HEAVY if any(m == h or m.startswith(f"{h}.") for m in modules)]
        assert not heavy, (words, heavy)
        assert len(modules) <= RUNS[words], (words, len(modules))
