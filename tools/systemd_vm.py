#!/usr/bin/env python3
"""A virtual machine with a whole Debian and its systemd, to try the package and the unit in.

The system is debootstrap's (tools/clean_system.py) with systemd, networkd, resolved and what the
package depends on, on an ext4 image; the kernel is that of tools/vm.py. Nothing in it knows of a
network but the tap to a host of a lab. A shell sits on the first serial port, the kernel and
systemd speak to the second one, whose log is `console`. No KVM: booting takes a minute or so.
"""

from __future__ import annotations

import gzip
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

if __package__ is None or __package__ == "":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools import clean_system, vm
from tools.clean_system import CODENAMES
from tools.netlab import Host, LabError, run

IMAGE_MB = 2000
MODULES = ("virtio_pci", "virtio_blk", "crc32c_generic", "ext4")
SYSTEM = "systemd systemd-sysv systemd-resolved udev dbus kmod iproute2 iputils-ping"
#: mounts the image, which systemd is on
INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs devtmpfs /dev
for module in $(cat /modules/order); do insmod /modules/$module; done
mount -t ext4 /dev/vda /root
umount /proc /sys; mount -o move /dev /root/dev
exec switch_root /root /lib/systemd/systemd
"""
# A shell that is not interactive says nothing but what it is asked.
SHELL = """[Unit]
Description=Shell of the tests
After=basic.target
[Service]
Environment=HOME=/root LANG=C.UTF-8 SYSTEMD_PAGER= SYSTEMD_COLORS=0
ExecStart=/bin/sh -c 'stty -echo -onlcr; exec sh -s 2>/dev/null'
StandardInput=tty-force
StandardOutput=tty
StandardError=null
TTYPath=/dev/ttyS0
Restart=always
WorkingDirectory=/root
[Install]
WantedBy=multi-user.target
"""
# An agent that starts in a second needs minutes here where the machine has other work too.
SLOW = """[Service]
TimeoutStartSec=900
WatchdogSec=120
"""
NETWORK = """[Match]
Name=eth0
[Network]
Address={}/24
Address={}/64
IPv6AcceptRA=no
"""


def _in(root: Path, command: str) -> None:
    """As its root, with this machine's network for apt. LabError."""
    words = clean_system.enter(root, command)
    words[-1] = words[-1].replace("cd /root/whalescale && ", "cd /root && ")
    done = subprocess.run(
        words, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=1200,
    )  # fmt: skip
    if done.returncode:
        raise LabError(f"`{command}` failed: {done.stdout[-2000:]}")


def make_image(debian: int, package: Path, earlier: Path, image: Path) -> None:
    """The system with `earlier` installed (to compile its modules takes minutes in the machine),
    and `package` as /root/new.deb."""
    root = clean_system.FOLDER / f"systemd{debian}"
    clean_system.FOLDER.mkdir(parents=True, exist_ok=True)
    clean_system.remove(root)
    try:
        base = clean_system.base_system(debian)
        run("cp", "-a", "--reflink=auto", base, root, timeout=600)
        clean_system.configure(root, CODENAMES[debian])
        shutil.copy(package, root / "root/new.deb")
        shutil.copy(earlier, root / "root/older.deb")
        apt = "DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends"
        _in(root, f"{apt} install {SYSTEM} libbpf1 libnftables1 ./older.deb && apt-get clean")
        _in(root, "rm -rf /var/lib/apt/lists/* older.deb")
        # dpkg-deb -x would put a folder in the place of the link /lib.
        with subprocess.Popen(
            ["dpkg-deb", "--fsys-tarfile", vm.download()[0]], stdout=subprocess.PIPE
        ) as unpacked:
            words = ("tar", "-C", root, "-x", "--keep-directory-symlink", "./lib/modules")
            subprocess.run(words, stdin=unpacked.stdout, check=True, timeout=300)
        _in(root, "for v in /lib/modules/*; do depmod ${v##*/}; done")
        units = root / "etc/systemd/system"
        (units / "test-shell.service").write_text(SHELL)
        (units / "ws@.service.d").mkdir()
        (units / "ws@.service.d/slow.conf").write_text(SLOW)
        _in(root, "systemctl enable test-shell systemd-networkd systemd-resolved")
        _in(root, "systemctl mask serial-getty@ttyS0 getty@tty1 apt-daily.timer fstrim.timer")
        link = root / "etc/resolv.conf"
        link.unlink(missing_ok=True)
        link.symlink_to("/run/systemd/resolve/stub-resolv.conf")
        (root / "etc/hostname").write_text("machine\n")
        (root / "etc/apt/sources.list").write_text("")
        image.unlink(missing_ok=True)
        made = ("mke2fs", "-q", "-t", "ext4", "-E", "lazy_itable_init=1", "-d", root)
        run(*made, image, f"{IMAGE_MB}M", timeout=900)
    finally:
        clean_system.remove(root)


def _initramfs() -> bytes:
    root = vm.FOLDER / "systemd-root"
    shutil.rmtree(root, ignore_errors=True)
    packages = vm.download()
    for package in packages[:2]:
        run("dpkg-deb", "-x", package, root, timeout=300)
    archive = vm.Cpio()
    for name in ("bin", "dev", "proc", "sys", "modules", "root"):
        archive.folder(name)
    archive.add("dev/console", stat.S_IFCHR | 0o600)
    vm.add_modules(archive, root, MODULES)
    busybox = next(root.glob("**/bin/busybox"))
    archive.add("bin/busybox", stat.S_IFREG | 0o755, busybox.read_bytes())
    archive.add("init", stat.S_IFREG | 0o755, INIT.encode())
    shutil.rmtree(root)
    return gzip.compress(archive.close(), compresslevel=1)


class SystemdVm(vm.Vm):
    """`image` is changed by what happens in it; `reboot` keeps that."""

    BOOT_S: ClassVar[float] = 420.0

    def __init__(self, host: Host, image: Path, number: int = 1) -> None:
        self.image = image
        self.console = host.lab.folder / "console.log"
        self.initramfs = host.lab.folder / "systemd-initramfs.gz"
        self.initramfs.write_bytes(_initramfs())
        super().__init__(host, number)

    def words(self) -> list[str | Path]:
        kernel, _ = vm.prepare()
        line = (
            "console=ttyS1 root=/dev/vda rw net.ifnames=0 loglevel=4 panic=-1 mitigations=off "
            "random.trust_cpu=1 systemd.show_status=1 systemd.log_target=console"
        )
        qemu = vm.QEMU.replace("-m 256", "-m 768").split()
        return [
            *qemu, "-serial", f"file:{self.console}", "-kernel", kernel, "-initrd", self.initramfs,
            "-drive", f"file={self.image},format=raw,if=none,id=d,cache=unsafe",
            "-device", "virtio-blk-pci,drive=d", "-append", line,
        ]  # fmt: skip

    def boot(self) -> None:
        self._start()
        at = (self.address(2), self.address(2, 6))
        self.write("/etc/systemd/network/eth0.network", NETWORK.format(*at))
        self.run("networkctl reload; networkctl reconfigure eth0")
        self.settle()

    def settle(self, timeout: float = 1200.0) -> None:
        """Until systemd has started everything, an enabled agent too (SLOW)."""
        deadline = time.monotonic() + timeout
        while True:
            # Each word is answered at once: a console that waits for long shows nothing of it.
            _, state = self.run("systemctl is-system-running", check=False)
            if state.strip() in ("running", "degraded"):
                return
            if time.monotonic() > deadline:
                raise LabError(f"systemd is {state.strip()}: {self.run('systemctl list-jobs')[1]}")
            time.sleep(1)

    def reboot(self) -> None:
        """In an orderly way, on the same disk."""
        self._console("systemctl reboot")
        self.process.wait(self.BOOT_S)
        self._read.close()
        self._start()
        self.settle()
