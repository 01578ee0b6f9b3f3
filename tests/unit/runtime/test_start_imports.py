"""What a start of the agent imports: a hundred modules more are a tenth of a second of it."""

from __future__ import annotations

import subprocess
import sys

START = """
import sys
import whalescale.cli.foreground
from whalescale.lean import without
from whalescale.runtime import lean
with without("ssl"):
    import asyncio
import whalescale.agent
lean.prepare()
import pyroute2.iproute
"""
#: 578 when this was written
MODULES = 600
#: for commands, for what few files ask for, or for nothing at all
OTHERS = (
    *("rich", "tomlkit", "segno", "prometheus_client", "dns", "zeroconf", "pydantic", "bcc"),
    *("pyroute2.ndb", "pyroute2.ipdb", "pyroute2.dhcp", "pyroute2.netlink.generic"),
    *(
        "whalescale.tui",
        "whalescale.trace",
        "whalescale.bench",
        "_ssl",
        "typer",
        "typing_extensions",
        "sqlite3.dbapi2",
    ),
    *("unittest", "multiprocessing", "pickle", "argparse"),
)


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_start_imports_what_it_needs() -> None:
    modules = run(START + "print('\\n'.join(sys.modules))").split()
    assert "pyroute2.iproute" in modules
    assert not [m for m in modules if any(m == n or m.startswith(f"{n}.") for n in OTHERS)]
    assert len(modules) < MODULES, len(modules)


def test_what_pyroute2_itself_is_asked_for_is_there() -> None:
    code = START + (
        "from pyroute2 import netns, IPRoute, NetlinkError\n"
        "assert IPRoute is pyroute2.iproute.IPRoute and 'pyroute2.ndb.main' in sys.modules\n"
        "assert pyroute2.netns is netns and not hasattr(pyroute2, 'nonsense')\n"
    )
    run(code)


def test_a_store_has_its_database() -> None:
    run(
        START + "from whalescale.runtime.store import sqlite3\n"
        "assert 'libsqlite3' not in open('/proc/self/maps').read()\n"
        "assert sqlite3.connect(':memory:').execute('select 7').fetchone() == (7,)\n"
        "import sqlite3 as again; assert again is sqlite3\n"
        "assert issubclass(sqlite3.OperationalError, sqlite3.DatabaseError)\n"
    )


def test_who_wants_tls_afterwards_has_it() -> None:
    run(START + "import ssl; ssl.create_default_context()")
