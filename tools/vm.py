#!/usr/bin/env python3
"""A virtual machine with a real in-kernel WireGuard, as a test peer.

QEMU boots Debian's cloud kernel with an initramfs made here from Debian packages (kernel, busybox,
wireguard-tools), downloaded with apt-get into build/vm. Its network card is a tap in a namespace of
a lab. Commands go over the serial console. No KVM is needed; booting takes some ten seconds.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import itertools
import lzma
import os
import re
import secrets
import select
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

if __package__ is None or __package__ == "":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.netlab import Host, Lab, LabError, Process, lock, run
from tools.peers import End, Peer, wg_config

FOLDER = Path(__file__).resolve().parent.parent / "build/vm"
MODULES = ("virtio_pci", "virtio_net", "virtio_rng", "wireguard")
LIBRARIES = "lib/x86_64-linux-gnu"
PACKAGES = ("busybox-static", "wireguard-tools", "libc6")
QEMU = (
    "qemu-system-x86_64 -accel tcg -cpu max -m 256 -nodefaults -no-reboot -display none "
    "-serial stdio -object rng-random,id=r,filename=/dev/urandom -device virtio-rng-pci,rng=r "
    "-device virtio-net-pci,netdev=n,romfile="
)

# The console's echo is off and its prompt empty, so that only answers come back.
INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs devtmpfs /dev
for module in $(cat /modules/order); do insmod /modules/$module; done
ip link set lo up
stty -F /dev/ttyS0 -echo -onlcr
export PS1= PATH=/bin
exec setsid sh -c 'exec sh </dev/ttyS0 >/dev/ttyS0 2>&1'
"""


def unavailable() -> str:
    """Why no virtual machine can be had here, "" when one can."""
    for command in ("qemu-system-x86_64", "apt-get", "dpkg-deb"):
        if shutil.which(command) is None:
            return f"{command} is not installed"
    return ""


def download() -> list[Path]:
    """Fetch the packages with apt-get (which checks their signatures) into build/vm."""
    depends = run("apt-cache", "depends", "linux-image-cloud-amd64").stdout
    kernel = re.search(r"Depends: (linux-image-\d\S*)", depends)
    if kernel is None:
        raise LabError("apt-cache knows no linux-image-cloud-amd64; run apt-get update")
    folder = FOLDER / "packages"
    folder.mkdir(parents=True, exist_ok=True)
    names = (kernel[1], *PACKAGES)
    for name in names:
        if not list(folder.glob(f"{name}_*.deb")):
            words = ("apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", name)
            done = subprocess.run(
                words, cwd=folder, capture_output=True, text=True, check=False, timeout=300
            )
            if done.returncode != 0:
                raise LabError(f"apt-get download {name} failed: {done.stderr.strip()}")
    return [next(folder.glob(f"{name}_*.deb")) for name in names]


def _module_bytes(path: Path) -> bytes:
    """The module as insmod takes it: Debian 13 ships them compressed."""
    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == ".xz" else data


def module_order(modules: dict[str, Path], wanted: tuple[str, ...]) -> Iterator[str]:
    """The wanted modules, each after those that it needs (from their own .modinfo)."""
    done: set[str] = set()

    def visit(name: str) -> Iterator[str]:
        name = name.replace("-", "_")
        if name in done or name not in modules:
            # A name without a file is built into the kernel.
            return
        done.add(name)
        info = re.search(rb"\0depends=([^\0]*)\0", _module_bytes(modules[name]))
        for need in info[1].decode().split(",") if info else []:
            yield from visit(need)
        yield name

    for name in wanted:
        yield from visit(name)


class Cpio:
    """A cpio archive in the kernel's "newc" format (Documentation/driver-api/early-userspace)."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._inode = itertools.count(1)

    def add(self, name: str, mode: int, data: bytes = b"") -> None:
        raw = name.encode() + b"\0"
        numbers = (next(self._inode), mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(raw), 0)
        head = b"070701" + b"".join(b"%08X" % n for n in numbers) + raw
        self._parts += [head, bytes(-len(head) % 4), data, bytes(-len(data) % 4)]

    def folder(self, name: str) -> None:
        self.add(name, stat.S_IFDIR | 0o755)

    def close(self) -> bytes:
        self.add("TRAILER!!!", 0)
        return b"".join(self._parts)


def add_modules(archive: Cpio, root: Path, wanted: tuple[str, ...]) -> None:
    """Below modules/, with their order in modules/order. `root`: a kernel package, unpacked."""
    # Debian 13 has everything below usr/, Debian 12 only some.
    modules = root.glob("**/lib/modules/*/kernel/**/*.ko*")
    found = {p.name.partition(".")[0].replace("-", "_"): p for p in modules}
    order = list(module_order(found, wanted))
    for name in order:
        archive.add(f"modules/{name}.ko", stat.S_IFREG | 0o644, _module_bytes(found[name]))
    names = "".join(f"{name}.ko\n" for name in order)
    archive.add("modules/order", stat.S_IFREG | 0o644, names.encode())


def _initramfs(root: Path) -> bytes:
    """Build the initramfs from the unpacked packages."""
    archive = Cpio()
    for folder in (
        "bin",
        "dev",
        "proc",
        "sys",
        "modules",
        "tmp",
        "etc",
        "www",
        "lib",
        LIBRARIES,
        "lib64",
    ):
        archive.folder(folder)
    archive.add("dev/console", stat.S_IFCHR | 0o600)
    add_modules(archive, root, MODULES)
    programs = {f"bin/{name}": next(root.glob(f"**/bin/{name}")) for name in ("busybox", "wg")}
    # wg needs the C library alone; where it lies has moved between releases.
    libc = next(p for p in root.glob("**/libc.so.6") if p.exists())
    loader = next(p for p in root.glob("**/ld-linux-x86-64.so.2") if p.is_file())
    for target, source in programs.items():
        archive.add(target, stat.S_IFREG | 0o755, source.read_bytes())
    archive.add("lib64/ld-linux-x86-64.so.2", stat.S_IFREG | 0o755, loader.read_bytes())
    archive.add(f"{LIBRARIES}/libc.so.6", stat.S_IFREG | 0o755, libc.read_bytes())
    archive.add("init", stat.S_IFREG | 0o755, INIT.encode())
    return gzip.compress(archive.close(), compresslevel=1)


def prepare() -> tuple[Path, Path]:
    """The kernel and the initramfs, built when they are not there yet or this file changed."""
    with lock(FOLDER.parent / "vm.lock"):
        return _prepare()


def _prepare() -> tuple[Path, Path]:
    kernel, initramfs, stamp = FOLDER / "vmlinuz", FOLDER / "initramfs.gz", FOLDER / "stamp"
    mark = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == mark:
        return kernel, initramfs
    root = FOLDER / "root"
    shutil.rmtree(root, ignore_errors=True)
    for package in download():
        run("dpkg-deb", "-x", package, root)
    shutil.copyfile(next(root.glob("boot/vmlinuz-*")), kernel)
    initramfs.write_bytes(_initramfs(root))
    shutil.rmtree(root)
    stamp.write_text(mark)
    return kernel, initramfs


class Vm:
    """A running machine. Its card `eth0` is joined to the device `device` of the host."""

    BOOT_S: ClassVar[float] = 90.0

    def __init__(self, host: Host, number: int = 1) -> None:
        self.host = host
        self.device = f"tap{number}"
        self.number = number
        host.ip(f"tuntap add dev {self.device} mode tap")
        host.ip(f"link set {self.device} up")
        for address in (f"{self.address(1)}/24", f"{self.address(1, 6)}/64 nodad"):
            words = address.split(" ")
            host.ip(" ".join(["addr add", words[0], "dev", self.device, *words[1:]]))
        self.boot()

    def words(self) -> list[str | Path]:
        """QEMU's, but for its network."""
        kernel, initramfs = prepare()
        line = "console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off random.trust_cpu=1"
        return [*QEMU.split(), "-kernel", kernel, "-initrd", initramfs, "-append", line]

    def boot(self) -> None:
        """Until its shell answers and eth0 has its addresses."""
        self._start()
        self.run(f"ip addr add {self.address(2)}/24 dev eth0; ip link set eth0 up")
        self.run("echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad")
        self.run(f"ip -6 addr add {self.address(2, 6)}/64 dev eth0")

    def _start(self) -> None:
        network = f"tap,id=n,ifname={self.device},script=no,downscript=no"
        self.process: Process = self.host.spawn(*self.words(), "-netdev", network)
        self._read = self.process.log_path.open("rb")
        self._wait_for_shell(self.BOOT_S)

    def address(self, part: int, family: int = 4) -> str:
        """Outer addresses: part 1 is the host's, 2 the machine's."""
        return f"10.202.{self.number}.{part}" if family == 4 else f"fd00:202:{self.number}::{part}"

    def _console(self, text: str) -> None:
        try:
            self.process.stdin.write(text.encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError as error:
            raise LabError(f"the machine is gone: {self.process.log()[-2000:]}") from error

    def _wait_for_shell(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise LabError(f"qemu ended: {self.process.log()[-2000:]}")
            self._console("echo shell-$((20+22))")
            until = time.monotonic() + 1
            while time.monotonic() < until:
                if b"shell-42" in self.process.log_path.read_bytes():
                    return
                select.select([], [], [], 0.1)
        raise LabError(f"the machine came to no shell: {self.process.log()[-2000:]}")

    def run(self, command: str, check: bool = True, timeout: float = 60.0) -> tuple[int, str]:
        """Run a shell command in the machine: (exit status, output). LabError: it failed."""
        mark = secrets.token_hex(6)
        # The mark's two halves meet in the answer alone, never in an echo of the command.
        self._console(
            f"echo {mark[:6]}''{mark[6:]}; ( {command} ) 2>&1; echo {mark[:6]}''{mark[6:]} $?"
        )
        got, deadline = b"", time.monotonic() + timeout
        pattern = re.compile(rb"%s\r?\n(.*?)%s (\d+)\r?\n" % ((mark.encode(),) * 2), re.DOTALL)
        while True:
            got += self._read.read()
            found = pattern.search(got)
            if found:
                status, output = int(found[2]), found[1].decode(errors="replace")
                if check and status != 0:
                    raise LabError(f"in the machine, `{command}` failed ({status}): {output}")
                return status, output.replace("\r\n", "\n")
            if self.process.poll() is not None:
                raise LabError(f"the machine ended during `{command}`")
            if time.monotonic() > deadline:
                raise LabError(f"in the machine, `{command}` took more than {timeout:g} s")
            select.select([], [], [], 0.02)

    def write(self, path: str, text: str) -> None:
        """Write a file in the machine (short lines: the console takes 4,095 bytes at a time)."""
        encoded = base64.b64encode(text.encode()).decode()
        self.run(f": > {path}.b64")
        for start in range(0, len(encoded), 1024):
            self.run(f"echo {encoded[start : start + 1024]} >> {path}.b64")
        self.run(f"base64 -d {path}.b64 > {path}")

    def stop(self) -> None:
        self.process.stop()
        self._read.close()


class KernelWireGuard(End):
    """The WireGuard of the machine's kernel."""

    def __init__(self, vm: Vm, interface: str, addresses: tuple[str, ...], port: int) -> None:
        self.vm = vm
        self.interface = interface
        self.addresses = addresses
        self.port = port
        self.private_key = run("wg", "genkey").stdout.strip()
        self.public_key = run("wg", "pubkey", stdin=self.private_key).stdout.strip()
        self._files = itertools.count()

    def start(self, peer: Peer) -> None:
        name = self.interface
        self.vm.run(f"ip link add {name} type wireguard")
        self.vm.write("/etc/wg.conf", wg_config(self.private_key, self.port, peer))
        self.vm.run(f"wg setconf {name} /etc/wg.conf")
        for address in self.addresses:
            self.vm.run(f"ip addr add {address} dev {name}")
        self.vm.run(f"ip link set {name} mtu 1420 up")
        for network in peer.allowed_ips:
            self.vm.run(f"ip route add {network} dev {name} 2>/dev/null || :")

    def stop(self) -> None:
        self.vm.run(f"ip link del {self.interface}")

    def close(self) -> None:
        self.vm.run(
            f"ip link del {self.interface}; killall -q httpd; rm -f /www/* /tmp/*", check=False
        )

    def run(
        self, *command: str | Path, check: bool = True, timeout: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        line = " ".join(str(word) for word in command)
        status, output = self.vm.run(line, check=check, timeout=timeout)
        return subprocess.CompletedProcess([line], status, output, "")

    def serve(self, size: int) -> tuple[str, str]:
        name = f"file{next(self._files)}"
        self.run(f"dd if=/dev/urandom of=/www/{name} bs=4096 count={-(-size // 4096)} 2>/dev/null")
        self.run("pidof httpd || httpd -p 8080 -h /www")
        return name, self.run(f"sha256sum /www/{name}").stdout.split()[0]

    def fetch(self, url: str, rate_bytes: int = 0, timeout: float = 120.0) -> str:
        if rate_bytes:
            raise LabError("busybox wget has no rate limit")
        self.run(f"wget -q -O /tmp/fetched {url}", timeout=timeout)
        return self.run("sha256sum /tmp/fetched").stdout.split()[0]


def main() -> int:
    """Boot a machine, show its WireGuard, stop."""
    if os.geteuid() != 0:
        print("vm: needs root (network namespaces)", file=sys.stderr)
        return 4
    began = time.monotonic()
    with Lab() as lab:
        vm = Vm(lab.host("a"))
        print(f"shell after {time.monotonic() - began:.1f} s")
        print(vm.run("uname -sr; ip link add wg0 type wireguard && wg show wg0; ip addr")[1])
        vm.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
