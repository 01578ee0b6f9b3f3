"""Anti-entropy: two members find what one knows and the other does not (docs/mesh.md section 6).

Neither keeps a state: each frame is answered from the table as it is. Who hears a root that is not
its own answers with its first 16 branches; who hears branches answers, for each that differs, with
its own branches below or, where few records are left, with these; who hears of records sends what
is newer here and asks for what is newer there. What gets lost is found the next time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from whalescale.protocol.mesh.entry import Entry
from whalescale.protocol.mesh.frames import (
    LEAVES_MAX,
    NODES_MAX,
    TWIGS_MAX,
    WANT_MAX,
    Branch,
    Leaf,
    Leaves,
    Summary,
    Tree,
    Twig,
    Want,
)
from whalescale.protocol.mesh.table import BRANCHES, DEPTH, Table

#: below a branch with so few records of ours these are named at once
FEW: Final = 8
#: frames in answer to one
ANSWERS_MAX: Final = 6

_LOW: Final = 0xFFFFFFFF
_HALF: Final = 1 << 31


@dataclass(slots=True)
class Answer:
    """`frames` to send back, and keys of records to send, as far as there is room.

    `cut`: there was more to say than an answer takes; compare again soon.
    """

    frames: list[Summary | Tree | Leaves | Want] = field(default_factory=list)
    send: list[int] = field(default_factory=list)
    cut: bool = False


def summary(table: Table, ask: bool) -> Summary:
    return Summary(table.root, table.count, ask)


def on_summary(table: Table, heard: Summary) -> Answer:
    if heard.root == table.root:
        return Answer([summary(table, ask=False)] if heard.ask else [])
    return Answer([Tree(0, (Branch(0, table.children(0, 0)),))])


def on_tree(table: Table, heard: Tree) -> Answer:
    below: list[Branch] = []
    twigs: list[Twig] = []
    level = heard.level + 1
    for branch in heard.branches:
        ours = table.children(heard.level, branch.prefix)
        for n, (mine, theirs) in enumerate(zip(ours, branch.children, strict=True)):
            if mine & _LOW == theirs:
                continue
            prefix = branch.prefix * BRANCHES + n
            few = _few(table, level, prefix)
            if few is None:
                below.append(Branch(prefix, table.children(level, prefix)))
            else:
                twigs.append(Twig(prefix, few))
    trees: list[Summary | Tree | Leaves | Want] = [
        Tree(level, tuple(below[at : at + NODES_MAX])) for at in range(0, len(below), NODES_MAX)
    ]
    leaves = [Leaves(level, group) for group in _groups(twigs)]
    # Trees only to some part: what is below them must have room as well.
    frames = [*trees[: ANSWERS_MAX // 2], *leaves]
    cut = len(trees) > ANSWERS_MAX // 2 or len(frames) > ANSWERS_MAX
    return Answer(frames[:ANSWERS_MAX], cut=cut)


def _groups(twigs: list[Twig]) -> list[tuple[Twig, ...]]:
    """As many in one frame as it takes."""
    groups: list[list[Twig]] = []
    room = 0
    for twig in twigs:
        if not groups or len(twig.leaves) > room or len(groups[-1]) == TWIGS_MAX:
            groups.append([])
            room = LEAVES_MAX
        groups[-1].append(twig)
        room -= len(twig.leaves)
    return [tuple(group) for group in groups]


def _few(table: Table, level: int, prefix: int) -> tuple[Leaf, ...] | None:
    """Our records below a branch. None: so many that its own branches say more."""
    most = FEW if level < DEPTH else LEAVES_MAX
    found: list[Leaf] = []
    for entry in table.leaves(level, prefix):
        if len(found) == most:
            return None if level < DEPTH else tuple(found)
        found.append(Leaf(entry.key, entry.version & _LOW, entry.digest & _LOW))
    return tuple(found)


def on_leaves(table: Table, heard: Leaves) -> Answer:
    answer = Answer()
    want: list[int] = []
    for twig in heard.twigs:
        theirs = {leaf.key: leaf for leaf in twig.leaves}
        for entry in table.leaves(heard.level, twig.prefix):
            leaf = theirs.pop(entry.key, None)
            if leaf is None:
                # Who names as many as a frame takes may have this one, too.
                if len(twig.leaves) < LEAVES_MAX:
                    answer.send.append(entry.key)
            elif leaf.digest != entry.digest & _LOW:
                (want if _behind(entry, leaf) else answer.send).append(entry.key)
        want += theirs
    answer.frames += (Want(tuple(want[at : at + WANT_MAX])) for at in range(0, len(want), WANT_MAX))
    return answer


def _behind(ours: Entry, theirs: Leaf) -> bool:
    """They may have something newer. Equal versions: a contradiction, so that both must tell."""
    return (theirs.version - ours.version) % (_LOW + 1) < _HALF


def on_want(table: Table, heard: Want) -> Iterable[int]:
    """Keys of what we have of it."""
    return [key for key in heard.keys if table.get(key) is not None]
