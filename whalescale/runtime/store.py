"""What a member keeps on the disk: records, places where it met others, its last timestamp.

SQLite in WAL mode. What must not roll back (our own seq, what an admin signed, the mark of our
timestamps) is on the disk before `put` returns; the rest is written together, by `flush`. Nothing
here is fatal: a damaged file is moved aside, a full disk is waited for, and `trouble` says so.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from whalescale.runtime import lean

if TYPE_CHECKING:
    import sqlite3
else:
    sqlite3 = lean.later("sqlite3")  # 1.3 MB, for who is in a network

SCHEMA: Final = 1
#: changes that wait for a disk that takes none
PENDING_MAX: Final = 100_000
#: how far the mark of timestamps is ahead of the clock, so that it is written seldom
NS_PER_S: Final = 1_000_000_000
MARK_AHEAD_NS: Final = 600 * NS_PER_S
#: a clock that is put right now and then is set back by less
BEHIND_NS: Final = 60 * NS_PER_S
DAMAGED_KEPT: Final = 3

_TABLES: Final = """
create table if not exists meta (name text primary key, value blob not null) without rowid;
create table if not exists records (
  key integer primary key, raw blob not null, sum blob not null);
create table if not exists tickets (
  one_time blob primary key, name text not null, may_anchor integer not null, routes text not null,
  until integer not null, boot text not null, left_s integer not null, at integer not null,
  used_by blob) without rowid;
create table if not exists met (
  node_id blob, ip text, port integer, how integer not null, at integer not null,
  primary key (node_id, ip, port)) without rowid;
"""


class StoreError(Exception):
    """The store cannot be used; says why and what to do."""


class MetPlace(NamedTuple):
    """Where we met a member. `how` as in protocol/mesh/directory.py; `at`: Unix seconds."""

    node_id: bytes
    ip: str
    port: int
    how: int
    at: int


class KeptTicket(NamedTuple):
    """A ticket that is out: whom its key lets in, as what. It holds no secret.

    `until`: ns of CLOCK_BOOTTIME in the boot `boot`; `left_s`: so long it was good yet `at` this
    time, in Unix seconds. `used_by`: the node that came with it.
    """

    one_time: bytes
    name: str
    may_anchor: int
    routes: str
    until: int
    boot: str
    left_s: int
    at: int
    used_by: bytes | None


SUM_BYTES: Final = 8
SEAL_BYTES: Final = 16


def _sum(raw: bytes) -> bytes:
    return hashlib.blake2s(raw, digest_size=SUM_BYTES).digest()


class Kept(NamedTuple):
    """A record. `sealed`: by us, who had checked its signature then."""

    raw: bytes
    sealed: bool


class Store:
    """One agent's file. Every method may be called from the thread that made it alone."""

    def __init__(self, path: Path) -> None:
        """StoreError: another agent has it, or the folder is not ours to write."""
        self._path = path
        #: what a person should know of, newest last
        self.notes: list[str] = []
        #: why the last write failed; None: it did not
        self.trouble: str | None = None
        #: a secret of this node's; empty: nothing is sealed, nor taken for sealed
        self.seal_key = b""
        self._records: dict[int, bytes | None] = {}
        self._met: dict[tuple[bytes, str, int], MetPlace] = {}
        self._forgotten: set[bytes] = set()
        self._meta: dict[str, bytes] = {}
        self._tickets: dict[bytes, KeptTicket | None] = {}
        self._lock = self._take_lock()
        try:
            self._db = self._open()
        except BaseException:
            os.close(self._lock)
            raise

    # opening

    def _take_lock(self) -> int:
        name = self._path.with_name(self._path.name + ".lock")
        try:
            lock = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as e:
            raise StoreError(f"{name}: {e.strerror}; the agent needs to write there") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise StoreError(
                f"{self._path}: another agent uses it; stop that one first (`ws down`)"
            ) from None
        return lock

    def _open(self) -> sqlite3.Connection:
        try:
            return self._connect()
        except sqlite3.DatabaseError as e:
            if isinstance(e, sqlite3.OperationalError) and "disk" in str(e):
                raise StoreError(f"{self._path}: {e}; make room there") from None
            self._move_aside(str(e))
        try:
            return self._connect()
        except sqlite3.DatabaseError as e:
            raise StoreError(f"{self._path}: {e}; remove the file") from None

    def _connect(self) -> sqlite3.Connection:
        old = os.umask(0o077)
        try:
            db = sqlite3.connect(self._path, timeout=2, isolation_level=None)
        finally:
            os.umask(old)
        try:
            db.execute("pragma journal_mode = wal")
            db.execute("pragma synchronous = full")
            found = db.execute("pragma quick_check(1)").fetchone()
            if found != ("ok",):
                raise sqlite3.DatabaseError(str(found[0]) if found else "no answer")
            (version,) = db.execute("pragma user_version").fetchone()
            if version not in (0, SCHEMA):
                raise sqlite3.DatabaseError(f"it is of version {version}, not {SCHEMA}")
            db.executescript(_TABLES)
            db.execute(f"pragma user_version = {SCHEMA}")
        except BaseException:
            db.close()
            raise
        return db

    def _move_aside(self, reason: str) -> None:
        aside = self._path.with_name(f"{self._path.name}.damaged-{time.time_ns()}")
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.rename(f"{self._path}{suffix}", f"{aside}{suffix}")
        old = sorted(self._path.parent.glob(f"{self._path.name}.damaged-*[0-9]"))
        for stale in old[:-DAMAGED_KEPT]:
            for suffix in ("", "-wal", "-shm"):
                Path(f"{stale}{suffix}").unlink(missing_ok=True)
        self.notes.append(f"{self._path} was damaged ({reason}); moved to {aside.name}, begun anew")

    def close(self) -> None:
        self.flush()
        self._db.close()
        os.close(self._lock)

    # records

    def _seal(self, raw: bytes) -> bytes:
        """Signatures of twenty thousand records take two seconds of a start to check: what was
        checked before bears a code that only this node can make. Empty: without a key."""
        if not self.seal_key:
            return b""
        return hashlib.blake2s(raw, key=self.seal_key, digest_size=SEAL_BYTES).digest()

    def records(self) -> Iterator[Kept]:
        """Every record. What does not fit its sum is left out, and noted."""
        bad = 0
        try:
            for raw, check in self._db.execute("select raw, sum from records"):
                if (
                    isinstance(raw, bytes)
                    and isinstance(check, bytes)
                    and check[:SUM_BYTES] == _sum(raw)
                ):
                    seal = check[SUM_BYTES:]
                    sealed = bool(seal) and hmac.compare_digest(seal, self._seal(raw))
                    yield Kept(raw, sealed)
                else:
                    bad += 1
        except sqlite3.DatabaseError as e:
            self.notes.append(f"{self._path}: {e}; what could be read is used")
        if bad:
            self.notes.append(f"{self._path}: {bad} damaged records left out; others tell them")

    def put(self, key: int, raw: bytes, *, durable: bool = False, seq: int | None = None) -> bool:
        """Keep a record, whose signature was checked. `durable`: on the disk before this returns,
        with all that waited.

        `seq`: ours, kept with it. False: the disk took nothing yet (`trouble` says why).
        """
        self._records[key] = raw
        if seq is not None:
            self._meta["seq"] = seq.to_bytes(8, "big")
        return self.flush(durable=True) if durable else self._waits()

    def remove(self, key: int) -> None:
        self._records[key] = None
        self._waits()

    @property
    def seq(self) -> int:
        """The last of our own seqs; 0: none is kept."""
        return int.from_bytes(self.meta("seq") or b"", "big")

    # places

    def met(self, places: Iterable[MetPlace]) -> None:
        for place in places:
            self._met[place.node_id, place.ip, place.port] = place
        self._waits()

    def forget(self, node_id: bytes) -> None:
        """No place of this node is kept."""
        self._met = {k: p for k, p in self._met.items() if k[0] != node_id}
        self._forgotten.add(node_id)

    def met_places(self) -> list[MetPlace]:
        try:
            rows = self._db.execute("select node_id, ip, port, how, at from met order by at")
            return [MetPlace(*row) for row in rows]
        except sqlite3.DatabaseError as e:
            self.notes.append(f"{self._path}: {e}; places are asked for anew")
            return []

    # tickets

    def put_ticket(self, ticket: KeptTicket) -> bool:
        """On the disk before this returns, with all that waited. False: not yet."""
        self._tickets[ticket.one_time] = ticket
        return self.flush(durable=True)

    def remove_ticket(self, one_time: bytes) -> bool:
        self._tickets[one_time] = None
        return self.flush(durable=True)

    def tickets(self) -> list[KeptTicket]:
        try:
            return [KeptTicket(*row) for row in self._db.execute("select * from tickets")]
        except sqlite3.DatabaseError as e:
            self.notes.append(f"{self._path}: {e}; tickets that were out are good no more")
            return []

    # small things

    def meta(self, name: str) -> bytes | None:
        if name in self._meta:
            return self._meta[name]
        try:
            row = self._db.execute("select value from meta where name = ?", (name,)).fetchone()
        except sqlite3.DatabaseError:
            return None
        return bytes(row[0]) if row else None

    def set_meta(self, name: str, value: bytes, *, durable: bool = False) -> bool:
        self._meta[name] = value
        return self.flush(durable=True) if durable else self._waits()

    # writing

    def _waits(self) -> bool:
        """Whether there is room for more that waits; without any the oldest is let go."""
        while len(self._records) > PENDING_MAX:
            del self._records[next(iter(self._records))]
        return True

    def flush(self, *, durable: bool = False) -> bool:
        """Write what waits. False: it waits on."""
        waiting = (self._records, self._met, self._forgotten, self._meta, self._tickets)
        if not any(waiting):
            return True
        try:
            self._db.execute(f"pragma synchronous = {'full' if durable else 'normal'}")
            self._db.execute("begin immediate")
            try:
                self._write()
                self._db.execute("commit")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("rollback")
                raise
        except sqlite3.Error as e:
            if self.trouble is None:
                self.notes.append(f"{self._path}: {e}; what is new is kept in memory until then")
            self.trouble = str(e)
            return False
        self.trouble = None
        self._records, self._met, self._meta, self._tickets = {}, {}, {}, {}
        self._forgotten = set()
        return True

    def _write(self) -> None:
        gone = [(_signed(k),) for k, raw in self._records.items() if raw is None]
        kept = [
            (_signed(k), r, _sum(r) + self._seal(r))
            for k, r in self._records.items()
            if r is not None
        ]
        self._db.executemany("delete from records where key = ?", gone)
        self._db.executemany("insert or replace into records values (?, ?, ?)", kept)
        self._db.executemany("delete from met where node_id = ?", ((n,) for n in self._forgotten))
        self._db.executemany(
            "insert or replace into met values (?, ?, ?, ?, ?)", self._met.values()
        )
        self._db.executemany("insert or replace into meta values (?, ?)", self._meta.items())
        used = [(n,) for n, t in self._tickets.items() if t is None]
        out = [t for t in self._tickets.values() if t is not None]
        self._db.executemany("delete from tickets where one_time = ?", used)
        marks = ", ".join("?" * len(KeptTicket._fields))
        self._db.executemany(f"insert or replace into tickets values ({marks})", out)  # noqa: S608


def _signed(key: int) -> int:
    """SQLite's integers have a sign."""
    return key - (1 << 64) if key >> 63 else key


class Timestamps:
    """The wall clock for handshakes, never below what was sent before a restart.

    WireGuard peers refuse a timestamp that is not above the last one. A mark that is kept ahead of
    all that were sent is where a board without a clock, or with one that was set back, goes on: at
    the mark the core counts in small steps until the clock has passed it.
    """

    def __init__(self, store: Store, clock: Callable[[], int] = time.time_ns) -> None:
        self._store = store
        self._clock = clock
        kept = store.meta("timestamps") or bytes(16)
        self._floor = self._mark = int.from_bytes(kept[:8], "big")
        self._seen = int.from_bytes(kept[8:], "big")
        if self.late:
            store.notes.append(self.late)

    @property
    def behind_ns(self) -> int:
        """How far the clock is behind where it was before, ns; 0: it is not."""
        return max(0, self._seen - self._clock())

    @property
    def late(self) -> str:
        """What a person should know of the clock; empty: it is as it should be, or nearly."""
        behind_s = self.behind_ns // NS_PER_S
        if self.behind_ns <= BEHIND_NS:
            return ""
        return (
            f"the clock is {behind_s} s behind what it was before: set it; until then handshakes "
            "go on from there by themselves"
        )

    def __call__(self) -> int:
        """ns since 1970; later than that where the clock is behind."""
        clock = self._clock()
        self._seen = max(self._seen, clock)
        now = max(clock, self._floor)
        if now + MARK_AHEAD_NS // 2 > self._mark:
            self._mark = now + MARK_AHEAD_NS
            value = self._mark.to_bytes(8, "big") + self._seen.to_bytes(8, "big")
            self._store.set_meta("timestamps", value, durable=True)
        return now
