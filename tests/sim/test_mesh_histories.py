"""Random histories of a small network: join, move, revoke, rename, partition, restore, clock jumps.

Checked all the way: who was revoked never comes back, nobody has a session with a non-member, seq
never goes back where it is known; and in the end all who can talk know the same.
"""

from __future__ import annotations

from ipaddress import IPv4Address

from hypothesis import given, settings
from hypothesis import strategies as st
from mesh_world import MS, Base, World, make_base, place_of

from whalescale.protocol.mesh import records
from whalescale.protocol.mesh.entry import entry_of
from whalescale.protocol.mesh.network import MeshError
from whalescale.protocol.mesh.records import MemberRecord, Status

COUNT, SPARE, ADMINS = 6, 2, 2


def base() -> Base:
    """COUNT members, two of them admins, and SPARE machines that may join."""
    whole = make_base(COUNT + SPARE, ADMINS)
    for raw in tuple(whole.raws):
        record = records.decode(raw)
        outside = {i.node_id for i in whole.identities[COUNT:]}
        if getattr(record, "node_id", None) in outside:
            whole.table.remove(entry_of(raw).key)
            whole.raws.remove(raw)
    return whole


BASE = base()
member = st.integers(0, COUNT + SPARE - 1)
admin = st.integers(0, ADMINS - 1)
ops = st.one_of(
    st.tuples(st.just("join"), admin, st.integers(COUNT, COUNT + SPARE - 1)),
    st.tuples(st.just("move"), member, st.integers(1, 1000)),
    st.tuples(st.just("revoke"), admin, member),
    st.tuples(st.just("rename"), admin, member),
    st.tuples(st.just("part"), st.integers(1, 2 ** (COUNT + SPARE) - 2), st.none()),
    st.tuples(st.just("heal"), st.none(), st.none()),
    st.tuples(st.just("save"), member, st.none()),
    st.tuples(st.just("restore"), member, st.none()),
    st.tuples(st.just("jump"), member, st.integers(1, 10_000)),
)


class History:
    def __init__(self, seed: int) -> None:
        self.world = World(BASE, seed=seed, loss=0.1)
        self.node_ids = [i.node_id for i in BASE.identities]
        self.disks = [self.world.disk(n) for n in range(len(self.node_ids))]
        self.places: dict[int, int] = {}
        #: revoked, by whoever knows it; a restored disk knows less
        self.known: list[set[bytes]] = [set() for _ in self.node_ids]
        self.seqs: list[dict[bytes, int]] = [{} for _ in self.node_ids]
        self.revoked: set[bytes] = set()

    def apply(self, op: str, one: int, other: int) -> None:
        world = self.world
        if op == "move":
            world.move(one, other)
            self.places[one] = other
        elif op == "part":
            world.group = [one >> n & 1 for n in range(len(self.node_ids))]
        elif op == "heal":
            world.group = [0] * len(self.node_ids)
        elif op == "save":
            self.disks[one] = world.disk(one)
        elif op == "restore":
            world.restart(one, self.disks[one])
            self.known[one], self.seqs[one] = set(), {}
            if one in self.places:
                world.move(one, self.places[one])
        elif op == "jump":
            world.jump(one, other)
        else:
            self.sign(op, one, other)
        self.sessions()
        world.run(1, self.check)
        self.check()

    def sign(self, op: str, one: int, other: int) -> None:
        mesh, node_id, now = self.world[one], self.node_ids[other], self.world.clock(one)
        if not mesh.belongs:
            return  # an admin may be revoked too
        record = mesh.membership.active(node_id)
        try:
            if op == "join" and record is None and not mesh.membership.is_revoked(node_id):
                address = IPv4Address("10.64.9.0") + other
                new = MemberRecord(
                    mesh.network_id, node_id, mesh.node_id, 1, Status.ACTIVE, f"n{other}",
                    True, address,
                )  # fmt: skip
                mesh.admission.issue(new, mesh.identity.seed, now)
            elif op == "revoke" and record is not None and other >= ADMINS:
                mesh.admission.revoke(record.name, now)
                self.revoked.add(node_id)
            elif op == "rename" and record is not None:
                mesh.admission.rename(record.name, f"r{one}{other}-{now // MS}", now)
        except MeshError:
            pass
        self.world.drain(self.world.members[one])

    def sessions(self) -> None:
        """Whoever can talk, and lets the other in, has a session."""
        world = self.world
        for a in range(len(self.node_ids)):
            for b in range(a):
                both = (world[a].membership.active(self.node_ids[b]),
                        world[b].membership.active(self.node_ids[a]))  # fmt: skip
                can = world.group[a] == world.group[b] and None not in both
                have = (
                    self.node_ids[b] in world[a].sessions,
                    self.node_ids[a] in world[b].sessions,
                )
                if can and have != (True, True):
                    world.connect(a, b)
                elif not can and have != (False, False):
                    world.cut(a, b)

    def check(self) -> bool:
        for n, m in enumerate(self.world.members):
            mesh = m.mesh
            for node_id in self.node_ids:
                if mesh.membership.is_revoked(node_id):
                    self.known[n].add(node_id)
                if node_id in self.known[n]:
                    assert mesh.membership.active(node_id) is None, "revoked, and back"
                where = mesh.table.endpoints(node_id)
                if where is not None:
                    assert where.seq >= self.seqs[n].get(node_id, 0), "a seq went back"
                    self.seqs[n][node_id] = where.seq
            assert all(mesh.membership.active(s) for s in mesh.sessions), "not a member"
        return False

    def end(self) -> None:
        """Everybody can talk again."""
        world = self.world
        world.group = [0] * len(self.node_ids)
        self.sessions()

        def settled() -> bool:
            self.sessions()
            self.check()
            return len({world[n].table.root for n in self.talking()}) == 1

        world.run(400, settled)
        talking = self.talking()
        assert len({world[n].table.root for n in talking}) == 1
        for n in talking:
            mesh = world[n]
            assert not self.revoked & {m.node_id for m in mesh.membership.actives()}
            assert not self.revoked & set(mesh.sessions)
            for other in talking:
                if other in self.places and mesh.membership.active(self.node_ids[other]):
                    record = mesh.table.endpoints(self.node_ids[other])
                    assert record is not None
                    assert record.places == (place_of(other, self.places[other]),)
        assert not any("signature" in reason for n in talking for reason in world[n].drops)

    def talking(self) -> list[int]:
        """Members that nobody has revoked, and that know that they are."""
        return [
            n
            for n, node_id in enumerate(self.node_ids)
            if node_id not in self.revoked and self.world[n].membership.active(self.node_ids[0])
            and (n < COUNT or self.world[0].membership.active(node_id))
        ]  # fmt: skip


@settings(max_examples=25)
@given(st.lists(ops, max_size=25), st.integers(0, 1000))
def test_histories(history, seed):
    world = History(seed)
    for op, one, other in history:
        world.apply(op, one, other)
    world.end()
