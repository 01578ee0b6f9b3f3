"""What `ws doctor` looks at. Every check works without privileges and without the extension."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import re
import resource
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal

from whalescale.cli import hostchecks, parts
from whalescale.cli.parts import Check, Verdict
from whalescale.dataplane import probe

__all__ = ["Check", "Verdict", "agent", "configuration", "system"]

CAP_NET_ADMIN: Final = 12
#: bpf(2); BPF_PROG_GET_NEXT_ID asks for nothing but shows whether the call is there
BPF_SYSCALL: Final = {"x86_64": 321, "aarch64": 280}
BPF_PROG_GET_NEXT_ID: Final = 11
#: the same number on every machine
LANDLOCK_CREATE_RULESET: Final = 444
BUFFER_BYTES: Final = 1 << 20
OPEN_FILES: Final = 1024


def system(proc: Path = Path("/proc"), sys_fs: Path = Path("/sys")) -> list[Check]:
    """The machine, in the order of a start. A check that stumbles is a line too."""
    checks: list[tuple[str, Callable[[], Check]]] = [
        ("kernel", lambda: kernel(platform.release())),
        ("TUN device", lambda: tun(Path("/dev/net/tun"))),
        ("CAP_NET_ADMIN", lambda: capability(proc)),
        ("data plane", extension),
        ("cipher ipsec-mb", lambda: cipher("ipsec-mb")),
        ("cipher openssl", lambda: cipher("openssl")),
        ("io_uring", io_uring),
        ("IPv6", ipv6),
        ("socket buffers", lambda: buffers(proc)),
        ("queue discipline", lambda: queue_discipline(proc)),
        ("congestion control", lambda: congestion_control(proc)),
        ("NUMA", lambda: numa(sys_fs)),
        ("open files", open_files),
        ("BPF", bpf),
        ("eBPF programs", bpf_programs),
        ("BTF", lambda: btf(sys_fs)),
        ("Landlock", lambda: landlock(landlock_version())),
    ]
    groups = [
        ("io_uring: parts", parts.uring),
        ("TUN: parts", parts.tun),
        ("UDP: parts", parts.udp),
    ]
    found = [_run(name, check) for name, check in checks]
    return found + [check for name, group in groups for check in _run_group(name, group)]


def _run_group(name: str, group: Callable[[], list[Check]]) -> list[Check]:
    try:
        return group()
    except Exception as e:
        return [Check(name, "warn", f"could not be checked: {e or type(e).__name__}")]


def _run(name: str, check: Callable[[], Check]) -> Check:
    return _run_group(name, lambda: [check()])[0]


def kernel(release: str) -> Check:
    """5.6 is the oldest with all that the mmsg backend uses, 6.0 with what io_uring uses."""
    name = "kernel"
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", release)
    if found is None:
        return Check(name, "warn", f"release {release!r} is not understood")
    version = (int(found[1]), int(found[2]), int(found[3] or 0))
    if version < (5, 6):
        return Check(name, "fail", release, "Linux 5.6 or newer is needed, 6.1 is best")
    if (7, 0, 0) <= version <= (7, 1, 4):
        problem = f"{release}: UDP GSO is broken in 7.0.0 to 7.1.4"
        return Check(name, "warn", problem, "update it, or set udp_gso = false under [dataplane]")
    if version < (6, 0):
        return Check(name, "warn", f"{release}: too old for io_uring here", "6.1 or newer is best")
    return Check(name, "ok", release)


def tun(path: Path) -> Check:
    name = "TUN device"
    try:
        info = path.stat()
    except FileNotFoundError:
        fix = "`sudo modprobe tun`; in a container start it with --device /dev/net/tun"
        return Check(name, "fail", f"{path} is missing", fix)
    if not stat.S_ISCHR(info.st_mode):
        return Check(name, "fail", f"{path} is no device", f"`sudo rm {path}; sudo modprobe tun`")
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except PermissionError:
        return Check(name, "warn", f"you may not open {path}", "run it with `sudo`")
    except OSError as e:
        return Check(name, "fail", f"{path}: {e.strerror}", "`sudo modprobe tun`")
    return Check(name, "ok", str(path))


def capability(proc: Path) -> Check:
    name = "CAP_NET_ADMIN"
    text = (proc / "self/status").read_text()
    found = re.search(r"^CapEff:\s*([0-9a-f]+)", text, re.MULTILINE)
    if found is not None and int(found[1], 16) >> CAP_NET_ADMIN & 1:
        return Check(name, "ok", "held")
    if os.geteuid() == 0:
        fix = "in a container start it with --cap-add NET_ADMIN"
        return Check(name, "fail", "not held, though this is root", fix)
    return Check(name, "warn", "not held by this user", "start with `sudo ws up`")


def extension() -> Check:
    name = "data plane"
    try:
        from whalescale.dataplane import engine
    except ImportError as e:
        return Check(name, "fail", f"the compiled extension is missing ({e})", "`make setup`")
    return Check(name, "ok", f"compiled, {len(engine.Drop)} reasons of drops known")


def cipher(which: Literal["ipsec-mb", "openssl"]) -> Check:
    name = f"cipher {which}"
    try:
        from whalescale.dataplane import selftest
        from whalescale.dataplane.engine import Cipher
    except ImportError:
        return Check(name, "warn", "cannot be tested without the extension", "`make setup`")
    fault = selftest.cipher_selftest(Cipher.IPSEC_MB if which == "ipsec-mb" else Cipher.OPENSSL)
    if not fault:
        return Check(name, "ok", "passes the vectors of RFC 8439")
    if which == "openssl":
        problem = "OpenSSL's ChaCha20-Poly1305 is missing or wrong"
        return Check(name, "fail", problem, "`sudo apt install libssl3`; a FIPS mode forbids it")
    if platform.machine() != "x86_64":
        return Check(name, "ok", "only for x86-64; OpenSSL stands in")
    stands_in = "OpenSSL stands in (about half as fast)"
    if fault not in {errno.ENOSYS, errno.ELIBACC}:
        return Check(name, "warn", f"refuses to work on this processor, {stands_in}")
    # Debian names the package of the library by its version; this one brings whichever is right.
    fix = "`sudo apt install libipsec-mb-dev`, then build again: `make clean setup`"
    missing = "built without it" if fault == errno.ENOSYS else "no library of its version here"
    return Check(name, "warn", f"{missing}, {stands_in}", fix)


def io_uring() -> Check:
    found = probe.io_uring()
    if found.problem:
        problem = f"{found.problem}; recvmmsg and sendmmsg stand in"
        return Check("io_uring", "warn", problem, found.fix)
    what = f"{found.operations} operations" if found.operations else "left to the data plane"
    return Check("io_uring", "ok", what)


def ipv6() -> Check:
    name = "IPv6"
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as s:
            s.bind(("::1", 0))
    except OSError as e:
        fix = "`sudo sysctl -w net.ipv6.conf.all.disable_ipv6=0`; the overlay address needs it"
        return Check(name, "warn", f"not usable: {e.strerror or e}", fix)
    return Check(name, "ok", "usable")


def buffers(proc: Path) -> Check:
    """The agent may pass these limits with CAP_NET_ADMIN; in some containers it may not."""
    name = "socket buffers"
    small = []
    for key in ("rmem_max", "wmem_max"):
        value = int((proc / f"sys/net/core/{key}").read_text())
        if value < BUFFER_BYTES:
            small.append(f"net.core.{key} is {value}")
    if small:
        fix = f"`sudo sysctl -w net.core.rmem_max={4 << 20} net.core.wmem_max={4 << 20}`"
        return Check(name, "warn", ", ".join(small), fix)
    return Check(name, "ok", "1 MiB or more")


def _told(path: Path) -> str:
    """ "": the kernel does not say, as in a network namespace of one's own."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def queue_discipline(proc: Path) -> Check:
    """A plain queue of an uplink lets a bulk flow stand before everybody else's packets."""
    name = "queue discipline"
    found = _told(proc / "sys/net/core/default_qdisc")
    if found.startswith("pfifo"):
        fix = "`sudo sysctl -w net.core.default_qdisc=fq_codel` (or fq), for links set up later"
        return Check(name, "warn", f"{found} for new links", fix)
    return Check(name, "ok", found or "not told here")


def congestion_control(proc: Path) -> Check:
    """Of this host's own flows through the tunnel; the tunnel itself needs none."""
    name = "congestion control"
    found = _told(proc / "sys/net/ipv4/tcp_congestion_control")
    if found and found not in ("bbr", "cubic"):
        fix = "`sudo sysctl -w net.ipv4.tcp_congestion_control=bbr` (or cubic)"
        return Check(name, "warn", f"{found}: not tried over several links", fix)
    return Check(name, "ok", found or "not told here")


def numa(sys_fs: Path) -> Check:
    nodes = len(list(sys_fs.glob("devices/system/node/node[0-9]*")))
    if nodes > 1:
        fix = (
            "NUMAPolicy, CPUAffinity (`systemctl edit ws@NAME`): the node of the network card; its"
            " interrupts there too (/proc/irq/*/smp_affinity_list)"
        )
        return Check("NUMA", "warn", f"{nodes} nodes: memory of another one is slow", fix)
    return Check("NUMA", "ok", "one node")


def open_files() -> Check:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < OPEN_FILES:
        return Check("open files", "warn", f"{soft} allowed", f"`ulimit -n {OPEN_FILES}`")
    return Check("open files", "ok", f"{soft} allowed, {hard} at most")


def landlock_version() -> int:
    """landlock_create_ruleset(2) with LANDLOCK_CREATE_RULESET_VERSION; 0: none."""
    libc = ctypes.CDLL(None, use_errno=True)
    return max(int(libc.syscall(LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), 1)), 0)


def landlock(version: int) -> Check:
    if version:
        return Check("Landlock", "ok", f"version {version}")
    problem = "not here: the running agent may open every file that root may"
    fix = (
        "Linux 5.13 or newer with landlock among the lsm= of its command line, see docs/security.md"
    )
    return Check("Landlock", "warn", problem, fix)


def bpf() -> Check:
    name = "BPF"
    number = BPF_SYSCALL.get(platform.machine())
    if number is None:
        return Check(name, "warn", f"not known on {platform.machine()}; nothing needs it yet")
    libc = ctypes.CDLL(None, use_errno=True)
    attributes = ctypes.create_string_buffer(120)
    if libc.syscall(number, BPF_PROG_GET_NEXT_ID, attributes, len(attributes)) < 0:
        code = ctypes.get_errno()
        if code in {errno.EPERM, errno.EACCES}:
            return Check(name, "warn", "only for root here", "run it with `sudo` to see more")
        if code != errno.ENOENT:
            problem = f"bpf(2): {os.strerror(code)}; the tunnel works without"
            return Check(name, "warn", problem, "a kernel with CONFIG_BPF_SYSCALL has it")
    return Check(name, "ok", "the system call is there")


def bpf_programs() -> Check:
    """Loads them, attaches nothing."""
    name = "eBPF programs"
    try:
        from whalescale.dataplane.programs import Program, Programs
    except ImportError:
        return Check(name, "warn", "cannot be tested without the extension", "`make setup`")
    wanted = Program.SHIELD | Program.PATHS | Program.STEER | Program.TUNSTEER
    try:
        programs = Programs.load(wanted, tag=1)
    except OSError as e:
        fix = "" if os.geteuid() == 0 else "run it with `sudo` to see more"
        return Check(name, "warn", f"off, because {e}; the tunnel works without", fix)
    lacks, loaded = programs.lacks, programs.loaded
    programs.close()
    if lacks:
        return Check(name, "warn", f"some are off, because {lacks}; the tunnel works without")
    return Check(name, "ok", f"{loaded.bit_count()} load here")


def btf(sys_fs: Path) -> Check:
    path = sys_fs / "kernel/btf/vmlinux"
    if path.exists():
        return Check("BTF", "ok", str(path))
    fix = "a kernel with CONFIG_DEBUG_INFO_BTF has it"
    return Check("BTF", "warn", f"{path} is missing; the tunnel works without", fix)


def configuration(path: Path) -> Iterator[Check]:
    """The file, and the key files that it names."""
    from whalescale import config, config_keys, doubts

    name = "configuration"
    try:
        loaded = config_keys.check(path)
    except config.ConfigError as e:
        absent = not e.key and e.problem == "no such file"
        verdict: Verdict = "warn" if e.exit_code == 4 or absent else "fail"
        yield Check(name, verdict, e.message, e.fix)
        return
    count = len(loaded.peers)
    yield Check(name, "ok", f"{path}, {count} peer{'s' if count != 1 else ''}")
    for doubt in doubts.of(loaded):
        yield Check(name, "warn", doubt, f"mend it in {path}, then `ws reload`")
    others = loaded.path.stat().st_mode & 0o022
    if others:
        yield Check(name, "warn", f"others may change {path}", f"`sudo chmod go-w {path}`")


def agent(interface: str) -> list[Check]:
    """The running agent, and what it knows of peers without a session."""
    from whalescale.cli import client, troubles
    from whalescale.cli.ending import UNREACHABLE, CliError, plain

    try:
        status = client.status(interface)[0]
    except CliError as e:
        taken = ""
        if e.exit_code == UNREACHABLE:
            with contextlib.suppress(OSError):
                socket.if_nametoindex(interface)
                taken = f"; an interface {interface} is there all the same"
        return [Check("agent", "warn", e.message + taken, e.fix)]
    up = sum(p.state == "up" for p in status.peers)
    found = [Check("agent", "ok", f"{interface} is up, and {up} of {len(status.peers)} peers")]
    found += [Check("agent", "warn", plain(w)) for w in status.agent.warnings]
    found += [Check("NAT", "ok", plain(text)) for text in troubles.nat(status)]
    found += [Check("port mapping", "ok", plain(text)) for text in troubles.portmap(status)]
    found += [Check(f"peer {name}", "warn", text) for name, text in troubles.of(status)]
    if text := troubles.refused_sources(status):
        found.append(Check("allowed IPs", "warn", text))
    fix = "`ws peer add NAME --id ITS_NODE_ID`, if it is one of yours"
    found += [Check("stranger", "warn", text, fix) for text in troubles.strangers(status)]
    return found


def pid(interface: str) -> int:
    """The agent's, 0 without one."""
    from whalescale.cli import client
    from whalescale.cli.ending import CliError

    with contextlib.suppress(CliError):
        return client.status(interface)[0].agent.pid
    return 0


def own_datagrams(interface: str) -> hostchecks.Datagrams:
    """Nothing known: no agent runs."""
    from whalescale.cli import client
    from whalescale.cli.ending import CliError

    with contextlib.suppress(CliError):
        status = client.status(interface)[0]
        ports = {("sport", status.agent.listen_port)}
        endpoints = set()
        for peer in status.peers:
            address, _, port = (peer.endpoint or "").rpartition(":")
            if port.isdecimal():
                ports.add(("dport", int(port)))
                endpoints.add(address.strip("[]").partition("%")[0])
        return hostchecks.Datagrams(
            status.agent.table, frozenset(ports), status.agent.fwmark, frozenset(endpoints)
        )
    return hostchecks.Datagrams()
