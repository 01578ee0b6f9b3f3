"""The store: what is kept, what survives kill -9, damage, a full disk, two agents, a bad clock."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from whalescale.runtime import store as module
from whalescale.runtime.store import (
    MARK_AHEAD_NS,
    KeptTicket,
    MetPlace,
    Store,
    StoreError,
    Timestamps,
)

S = 1_000_000_000


def raws(store: Store) -> list[bytes]:
    return [kept.raw for kept in store.records()]


def test_what_was_checked_is_sealed_and_only_this_node_can(tmp_path):
    """The signatures of ten thousand members took two seconds of each start."""
    path = tmp_path / "ws0.db"
    store = Store(path)
    store.put(1, b"bare")  # by `ws join`, or an agent of before
    store.flush()
    store.seal_key = b"k" * 32
    store.put(2, b"mine")
    store.put(3, b"forged")
    store.close()
    with sqlite3.connect(path) as db:
        # Whoever writes there without the key, or has the bytes of another's record.
        (seal,) = db.execute("select sum from records where key = 2").fetchone()
        forged = module._sum(b"forged") + seal[module.SUM_BYTES :]
        db.execute("update records set sum = ? where key = 3", (forged,))
    for key, sealed in ((b"k" * 32, {b"mine"}), (b"l" * 32, set()), (b"", set())):
        again = Store(path)
        again.seal_key = key
        assert sorted(raws(again)) == [b"bare", b"forged", b"mine"]
        assert {k.raw for k in again.records() if k.sealed} == sealed
        assert not again.notes
        again.close()


def test_what_is_put_is_there_again(tmp_path):
    path = tmp_path / "ws0.db"
    store = Store(path)
    store.put(1, b"one", durable=True, seq=7)
    store.put(2**64 - 1, b"last")
    store.put(3, b"three")
    store.remove(3)
    store.met(
        [MetPlace(b"n" * 32, "192.0.2.1", 51820, 1, 100), MetPlace(b"m" * 32, "::1", 1, 2, 9)]
    )
    store.forget(b"m" * 32)
    store.set_meta("x", b"y")
    store.close()
    again = Store(path)
    assert sorted(raws(again)) == [b"last", b"one"]
    assert (again.seq, again.meta("x"), again.meta("z")) == (7, b"y", None)
    assert again.met_places() == [MetPlace(b"n" * 32, "192.0.2.1", 51820, 1, 100)]
    assert not again.notes
    assert path.stat().st_mode & 0o077 == 0
    again.put(1, b"ONE")
    again.remove(2**64 - 1)
    again.close()
    assert raws(Store(path)) == [b"ONE"]


def test_tickets_are_kept_until_they_are_removed(tmp_path):
    path = tmp_path / "ws0.db"
    store = Store(path)
    ticket = KeptTicket(b"k" * 32, "laptop", 1, "10.0.0.0/8", 10**18, "boot", 3600, 100, None)
    other = ticket._replace(one_time=b"l" * 32, name="phone")
    assert store.put_ticket(ticket)
    assert store.put_ticket(other)
    # On the disk at once: a kill comes without a warning.
    assert sqlite3.connect(path).execute("select count(*) from tickets").fetchone() == (2,)
    assert store.put_ticket(ticket._replace(used_by=b"n" * 32))
    assert store.remove_ticket(other.one_time)
    store.close()
    again = Store(path)
    assert again.tickets() == [ticket._replace(used_by=b"n" * 32)]
    assert path.stat().st_mode & 0o077 == 0


def test_a_second_agent_is_refused(tmp_path):
    store = Store(tmp_path / "ws0.db")
    with pytest.raises(StoreError, match="another agent"):
        Store(tmp_path / "ws0.db")
    store.close()
    Store(tmp_path / "ws0.db").close()


@pytest.mark.parametrize("damage", ["junk", "header", "page", "cut", "version"])
def test_a_damaged_file_is_moved_aside_or_read_as_far_as_it_goes(tmp_path, damage):
    path = tmp_path / "ws0.db"
    store = Store(path)
    for n in range(500):
        store.put(n, bytes([n % 256]) * 300)
    store.close()
    raw = bytearray(path.read_bytes())
    if damage == "junk":
        raw = bytearray(b"not a database at all" * 100)
    elif damage == "header":
        raw[:16] = bytes(16)
    elif damage == "page":
        raw[5 * 4096 : 6 * 4096] = os.urandom(4096)
    elif damage == "cut":
        del raw[len(raw) // 2 :]
    else:
        raw[60:64] = (99).to_bytes(4, "big")
    path.write_bytes(raw)
    store = Store(path)
    assert raws(store) == []
    assert "damaged" in store.notes[0]
    assert store.put(1, b"x", durable=True)
    store.close()
    assert len(list(tmp_path.glob("ws0.db.damaged-*"))) == 1


def test_a_record_whose_bytes_changed_is_left_out(tmp_path):
    path = tmp_path / "ws0.db"
    store = Store(path)
    store.put(1, b"one")
    store.put(2, b"two")
    store.close()
    db = sqlite3.connect(path)
    db.execute("update records set raw = ? where key = 1", (b"0ne",))
    db.commit()
    db.close()
    store = Store(path)
    assert raws(store) == [b"two"]
    assert "1 damaged records" in store.notes[0]


def test_damaged_files_do_not_pile_up(tmp_path):
    path = tmp_path / "ws0.db"
    for _ in range(6):
        path.write_bytes(b"junk" * 1000)
        Store(path).close()
    assert len(list(tmp_path.glob("ws0.db.damaged-*"))) == module.DAMAGED_KEPT


def test_a_full_disk_is_waited_for(tmp_path):
    store = Store(tmp_path / "ws0.db")
    store.put(1, b"one", durable=True)
    (pages,) = store._db.execute("pragma page_count").fetchone()
    store._db.execute(f"pragma max_page_count = {pages}")
    big = b"x" * 100_000
    assert not store.put(2, big, durable=True, seq=5)
    assert "full" in store.trouble
    assert not store.flush()
    assert len(store.notes) == 1
    assert store.seq == 5
    store._db.execute("pragma max_page_count = 100000")
    assert store.flush()
    assert store.trouble is None
    store.close()
    assert big in raws(Store(tmp_path / "ws0.db"))


WRITER = """
import sys
from pathlib import Path
from whalescale.runtime.store import Store
store = Store(Path(sys.argv[1]))
seq = store.seq
while True:
    seq += 1
    store.put(seq % 50, b"%d" % seq * 50)
    store.put(1000, b"own %d" % seq, durable=True, seq=seq)
    sys.stdout.write(f"{seq}\\n")
    sys.stdout.flush()
"""


@pytest.mark.parametrize("times", [12, pytest.param(1000, marks=pytest.mark.long)])
def test_killed_in_the_middle_of_writes(tmp_path, times):
    """Whatever was said to be on the disk is there, and nothing is older than that."""
    path = tmp_path / "ws0.db"
    said = 0
    rng = random.Random(1)  # noqa: S311
    root = str(Path(module.__file__).parents[2])
    for _ in range(times):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, path],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": root},
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(rng.random() * 0.03)
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read().split()
        process.wait()
        said = max(said, *(int(n) for n in rest), 0) if rest else said
        store = Store(path)
        assert not store.notes
        assert store.seq >= said
        assert b"own %d" % store.seq in raws(store)
        store.close()


def test_timestamps_go_on_whatever_the_clock_says(tmp_path):
    clock = [1_700_000_000 * S]
    sent = 0
    for back in (0, 10 * S, 400 * S, 100_000 * S, 1_600_000_000 * S):
        store = Store(tmp_path / "ws0.db")
        clock[0] -= back
        stamps = Timestamps(store, lambda: clock[0])
        assert (stamps.behind_ns > 60 * S) == (back > 60 * S)
        assert bool(store.notes) == (back > 60 * S)
        for _ in range(5):
            assert stamps() > sent or back == 0
            clock[0] += S
        sent = stamps()
        store.close()
    store = Store(tmp_path / "ws0.db")
    clock[0] = sent + 10 * MARK_AHEAD_NS
    stamps = Timestamps(store, lambda: clock[0])
    assert stamps() == clock[0]
    assert not store.notes


def test_a_clock_that_is_set_back_is_said_until_it_is_set_right(tmp_path):
    store = Store(tmp_path / "ws0.db")
    clock = [1_700_000_000 * S]
    stamps = Timestamps(store, lambda: clock[0])
    sent = stamps()
    assert stamps.late == ""
    clock[0] -= 7_200 * S
    assert stamps.late.startswith("the clock is 7200 s behind")
    assert stamps() <= sent  # the core counts on from what it sent last
    clock[0] += 7_201 * S
    assert stamps.late == ""
    store.close()


def test_timestamps_are_written_seldom(tmp_path):
    store = Store(tmp_path / "ws0.db")
    clock = [1_700_000_000 * S]
    stamps = Timestamps(store, lambda: clock[0])
    before = store._db.total_changes
    for _ in range(1000):
        stamps()
        clock[0] += S
    assert store._db.total_changes - before <= 5
