"""Whalescale against wireguard-go and the kernel's WireGuard: handshakes, data, rekeys, roams."""

from __future__ import annotations

import re
import shutil
import sys
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from nacl.public import PrivateKey

from tests.interop.conftest import (
    GO_KINDS,
    KINDS,
    MakePair,
    Pair,
    in_vm,
    of_each_go_kind,
    of_each_kind,
)
from tools.netlab import Host, LabError, run, wait_until
from tools.peers import (
    ROOT,
    End,
    HostEnd,
    Peer,
    Whalescale,
    WireGuardGo,
    debian_wireguard_go,
    http_url,
    newest_wireguard_go,
    outside,
)
from tools.vm import LIBRARIES, Vm
from whalescale.keyfiles import encode_wireguard_key

pytestmark = pytest.mark.netns

MIB = 1 << 20
ROLES = ["ours", "theirs"]
#: who moves, over which family: each once, the other two when asked for
ROAMS = [
    ("ours", 4),
    ("theirs", 6),
    pytest.param("ours", 6, marks=pytest.mark.long),
    pytest.param("theirs", 4, marks=pytest.mark.long),
]


@pytest.mark.sampled(2)
@of_each_kind
@pytest.mark.parametrize("initiator", ROLES)
@pytest.mark.parametrize("with_psk", [False, True], ids=["plain", "psk"])
@pytest.mark.parametrize("family", [4, 6], ids=["outer4", "outer6"])
def test_handshake_and_data(
    make_pair: MakePair, psk: str, kind: str, initiator: str, with_psk: bool, family: int
) -> None:
    pair = make_pair(kind)
    pair.start(initiator=initiator, psk=psk if with_psk else None, family=family)
    first, second = pair.from_initiator(initiator)
    first.ping(second, 4, count=1)
    first.ping(second, 6, count=1)
    assert first.latest_handshake() > 0
    assert second.latest_handshake() > 0
    # A packet of exactly the inner MTU: 1,392 bytes, ICMP and IPv4 headers.
    pair.ours.run("ping", "-c1", "-w5", "-Mdo", "-s1392", pair.theirs.inside(4))
    name, digest = pair.theirs.serve(2 * MIB)
    assert pair.ours.fetch(http_url(pair.theirs, name, 4)) == digest
    name, digest = pair.ours.serve(2 * MIB)
    assert pair.theirs.fetch(http_url(pair.ours, name, 6)) == digest
    received, sent = pair.ours.transfer()
    assert received > 2 * MIB
    assert sent > 2 * MIB


def test_an_imported_key_is_what_its_peer_knows(make_pair: MakePair) -> None:
    """A provider's file: the key in it is the only one that the other side lets in."""
    pair = make_pair("go-debian")
    ours, theirs = pair.ours, pair.theirs
    if not isinstance(ours, Whalescale):
        pytest.skip("only Whalescale imports")
    key = PrivateKey.generate()
    ours.public_key = encode_wireguard_key(bytes(key.public_key))
    file = ours.config.with_name("provider.conf")
    file.write_text(
        f"[Interface]\nPrivateKey = {encode_wireguard_key(bytes(key))}\n"
        f"Address = {', '.join(ours.addresses)}\n[Peer]\nPublicKey = {theirs.public_key}\n"
        f"AllowedIPs = {', '.join(theirs.addresses)}\n"
        f"Endpoint = {outside(pair.their_outer(4), theirs.port)}\n"
    )
    ours.ws("import", file, "-i", ours.interface, "-c", ours.config, "--force")
    networks = tuple(f"{a.partition('/')[0]}/{128 if ':' in a else 32}" for a in ours.addresses)
    theirs.start(Peer(ours.public_key, networks, None, None))
    ours.launch()
    ours.wait_for_uapi()
    ours.ping(theirs, 4, count=1)
    ours.ping(theirs, 6, count=1)
    status = ours.status()
    assert status["agent"]["node_id"] == status["agent"]["overlay_address"] == ""
    assert not status["peers"][0]["extended"]
    assert "none: a plain WireGuard key" in ours.ws("status", "-i", ours.interface).stdout


@of_each_go_kind
def test_another_psk_gets_no_session(make_pair: MakePair, psk: str, kind: str) -> None:
    pair = make_pair(kind)
    pair.start(initiator="ours", psk=psk, their_psk="A" * 43 + "=")
    with pytest.raises(LabError):
        pair.ours.ping(pair.theirs, count=1, seconds=2)
    assert pair.ours.latest_handshake() == 0


@of_each_kind
def test_rekey_in_mid_transfer(make_pair: MakePair, psk: str, kind: str) -> None:
    """Ours initiates a new session every 2 s under load; nothing is lost.

    A transfer takes 5 s. On a busy machine an attempt may come late: then there is another one.
    """
    pair = make_pair(kind, {"rekey_after_time": 2000, "rekey_timeout": 1000})
    if not _is_whalescale(pair.ours):
        pytest.skip("only Whalescale's limits can be set")
    pair.start(initiator="ours", psk=psk)
    pair.ours.ping(pair.theirs, count=1)
    name, digest = pair.theirs.serve(4 * MIB)
    seen = {pair.ours.latest_handshake()}
    for _ in range(4):
        transfer = pair.ours.curl(http_url(pair.theirs, name), rate_bytes=MIB * 4 // 5)
        while transfer.poll() is None:
            seen.add(pair.ours.latest_handshake())
            time.sleep(0.25)
        assert pair.ours.curl_digest(transfer) == digest
        if len(seen) >= 3:
            break
    assert len(seen) >= 3, f"handshakes at {sorted(seen)}"
    # They know of the last one when ours has confirmed it: with a keepalive, if nothing else goes.
    last = max(seen) - 1
    wait_until("their last handshake", lambda: pair.theirs.latest_handshake() >= last)


@in_vm
@pytest.mark.long
@pytest.mark.waits
def test_rekey_by_the_other_side(make_pair: MakePair) -> None:
    """wireguard-go and the kernel rekey after their own 120 s; all pairs wait at the same time.

    In short, for every run: `test_the_other_side_starts_anew`.
    """
    pairs = [make_pair("go-debian"), make_pair("kernel")]
    began = {}
    transfers = []
    for pair in pairs:
        pair.start(initiator="theirs")
        pair.theirs.ping(pair.ours, count=1)
        began[pair.theirs.interface] = pair.theirs.latest_handshake()
        name, digest = pair.ours.serve(14 * MIB // 10)
        transfers.append((pair, digest, http_url(pair.ours, name)))
    deadline = time.monotonic() + 135
    done: set[str] = set()
    # A packet a second from their side: the initiator rekeys when it sends after 120 s.
    while len(done) < len(pairs) and time.monotonic() < deadline:
        for pair in pairs:
            pair.theirs.ping(pair.ours, count=1, seconds=3)
            if pair.theirs.latest_handshake() > began[pair.theirs.interface]:
                done.add(pair.theirs.interface)
        time.sleep(1)
    assert done == {pair.theirs.interface for pair in pairs}
    for pair, digest, url in transfers:
        assert pair.theirs.latest_handshake() - began[pair.theirs.interface] >= 115
        assert pair.theirs.fetch(url) == digest


@pytest.mark.sampled(1)
@of_each_go_kind
@pytest.mark.parametrize(("mover", "family"), ROAMS)
def test_roam_in_mid_transfer(make_pair: MakePair, kind: str, mover: str, family: int) -> None:
    pair = make_pair(kind)
    pair.start(initiator="ours", family=family)
    pair.ours.ping(pair.theirs, count=1)
    name, digest = pair.theirs.serve(4 * MIB)
    transfer = pair.ours.curl(http_url(pair.theirs, name), rate_bytes=MIB)
    received = pair.ours.transfer()[0]
    wait_until("data to flow", lambda: pair.ours.transfer()[0] > received + MIB // 2)
    new = (pair.move_ours if mover == "ours" else pair.move_theirs)(family)
    # The other side learns of it from the first message that the mover sends.
    moved, still = pair.from_initiator(mover)
    # Debian's wireguard-go takes half a minute to let go of a source address that went away.
    moved.ping(still, count=1, seconds=45)
    assert pair.ours.curl_digest(transfer) == digest
    assert new in still.show("endpoints")


@of_each_go_kind
def test_the_other_side_starts_anew(make_pair: MakePair, kind: str) -> None:
    """Their interface goes and comes back with the same key: ours takes the new session."""
    pair = make_pair(kind)
    pair.start(initiator="theirs")
    pair.theirs.ping(pair.ours, count=1)
    pair.theirs.stop()
    pair.restart_theirs()
    pair.theirs.ping(pair.ours, count=1)
    name, digest = pair.ours.serve(MIB)
    assert pair.theirs.fetch(http_url(pair.ours, name)) == digest


@in_vm
def test_its_kernel_takes_our_programs(machine: tuple[Host, Vm], tmp_path: Path) -> None:
    """The verifier of Linux 6.1 (Debian 12) knows fewer bounds than those of later kernels."""
    host, vm = machine
    bpftool = shutil.which("bpftool")
    if bpftool is None:
        pytest.skip("no bpftool")
    libraries = re.findall(r"=> (\S+)", run("ldd", bpftool).stdout)
    programs = sorted((ROOT / "whalescale/dataplane/bpf").glob("*.bpf.o"))
    assert programs
    places = {Path(name): f"/{LIBRARIES}" for name in libraries if "libc.so" not in name}
    places |= {Path(bpftool): "/bin"} | dict.fromkeys(programs, "/tmp")  # noqa: S108
    for path in places:
        shutil.copyfile(path, tmp_path / path.name)
    words = ("-m", "http.server", "8090", "--bind", vm.address(1), "--directory", tmp_path)
    server = host.spawn(sys.executable, *words)
    host.wait_listening(8090)
    for path, folder in places.items():
        url = f"http://{vm.address(1)}:8090/{path.name}"
        vm.run(f"wget -q -O {folder}/{path.name} {url} && chmod +x {folder}/{path.name}")
    server.stop()
    vm.run("mkdir -p /sys/fs/bpf; mount -t bpf bpf /sys/fs/bpf")
    for path in programs:
        pins = f"/sys/fs/bpf/{path.name.partition('.')[0]}"
        vm.run(f"bpftool prog loadall /tmp/{path.name} {pins}", timeout=120)


OFFERS = 5  # at once, and after 1, 2, 4 and 8 s


def _offers_seen(end: End) -> int:
    """Messages of no IP packet that came to a plain WireGuard."""
    if isinstance(end, WireGuardGo):
        assert end.process is not None
        return end.process.log().count("Packet with invalid IP version")
    errors = f"/sys/class/net/{end.interface}/statistics/rx_frame_errors"
    return int(end.run("cat", errors).stdout)


@pytest.mark.slow
@pytest.mark.parametrize("kinds", [GO_KINDS, pytest.param(KINDS, marks=[in_vm, pytest.mark.long])])
def test_a_plain_peer_that_is_taken_for_a_whalescale_node(
    make_pair: MakePair, kinds: list[str]
) -> None:
    """Configured by node ID: it is offered frames five times and is a plain peer all the same."""
    kinds = [kind for kind in kinds if kind != "go-newest" or newest_wireguard_go()]
    pairs = {kind: make_pair(kind) for kind in kinds}
    if not _is_whalescale(pairs["go-debian"].ours):
        pytest.skip("only Whalescale makes offers")
    # The sessions began after the one and before the other.
    began, up, last_seen = {}, 0.0, {}
    for kind, pair in pairs.items():
        if isinstance(pair.theirs, WireGuardGo):
            pair.theirs.log_level = "verbose"
        began[kind] = time.monotonic()
        pair.start(initiator="ours", by_node_id=True)
        pair.ours.ping(pair.theirs, count=1)
        up = time.monotonic()
    handshakes = {kind: pair.theirs.latest_handshake() for kind, pair in pairs.items()}
    _both_ways(pairs.values())

    def all_seen() -> bool:
        for kind, pair in pairs.items():
            if kind not in last_seen and _offers_seen(pair.theirs) >= OFFERS:
                last_seen[kind] = time.monotonic() - began[kind]
        return len(last_seen) == len(pairs)

    wait_until("all offers to arrive", all_seen, timeout=20)
    assert all(after > 7 for after in last_seen.values()), last_seen
    # Past the moment at which another one would have followed (16 s), with traffic all the time.
    pings = [
        pair.ours.host.spawn("ping", "-n", "-i0.5", "-c20", pair.theirs.inside())
        for pair in pairs.values()
    ]
    _both_ways(pairs.values())
    for ping in pings:
        said = ping.finish()
        # As with a transfer, a full socket buffer may lose one.
        received = re.search(r"20 packets transmitted, (\d+) received", said)
        assert received is not None, said
        assert int(received[1]) >= 19, said
    time.sleep(max(0.0, up + 17 - time.monotonic()))
    for kind, pair in pairs.items():
        # A full socket buffer may lose a datagram of a transfer, but hardly of each.
        assert any(_carries_the_same(pair) for _ in range(8)), f"{kind}: not the same at both ends"
        assert _offers_seen(pair.theirs) == OFFERS
        assert pair.theirs.latest_handshake() == handshakes[kind]
        status: dict[str, Any] = pair.ours.status()  # type: ignore[attr-defined]
        (peer,) = status["peers"]
        assert (peer["extended"], peer["multipath"]) == (False, None)
        drops = {k: n for k, n in status["counters"]["drops"].items() if n and k != "no_peer"}
        assert drops == {}


Transfers = tuple[tuple[int, int], tuple[int, int]]


def _same_bytes(pair: Pair, before: Transfers) -> bool:
    """Since then each end has received what the other sent, to the byte."""
    ours = [now - then for now, then in zip(pair.ours.transfer(), before[0], strict=True)]
    theirs = [now - then for now, then in zip(pair.theirs.transfer(), before[1], strict=True)]
    if theirs == ours[::-1] and min(ours) > MIB:
        return True
    if isinstance(pair.theirs, WireGuardGo) and pair.theirs.binary == debian_wireguard_go():
        # Debian 12's old one leaves out headers and padding of what it receives.
        return theirs[1] == ours[0] > MIB < theirs[0] < ours[1]
    return False


def _carries_the_same(pair: Pair) -> bool:
    """Of a transfer each way, within 2 s."""
    before = _settled(pair)
    _both_ways([pair])
    try:
        wait_until("the same bytes at both ends", partial(_same_bytes, pair, before), timeout=2)
    except LabError:
        return False
    return True


def _settled(pair: Pair) -> Transfers:
    """Both ends' counters, when nothing is under way any more."""
    last: list[Transfers] = []

    def read() -> bool:
        last.append((pair.ours.transfer(), pair.theirs.transfer()))
        return len(last) > 1 and last[-1] == last[-2]

    wait_until("the counters to stand still", read, interval=0.2)
    return last[-1]


def _both_ways(pairs: Iterable[Pair]) -> None:
    for pair in pairs:
        for server, client in ((pair.ours, pair.theirs), (pair.theirs, pair.ours)):
            name, digest = server.serve(MIB)
            assert client.fetch(http_url(server, name)) == digest


def _is_whalescale(end: HostEnd) -> bool:
    return type(end).__name__ == "Whalescale"
