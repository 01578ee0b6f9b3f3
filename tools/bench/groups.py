"""What `perf` sampled, by groups of functions.

A sample belongs to the first group of GROUPS whose place and symbol both match; what none takes is
OTHER, so that the shares add up to 100. A place is "kernel", a file of csrc/ ("send.c"), or a
library or program by its file name.

With the cpu-clock event an interrupt that comes while interrupts are off is counted where they come
on again: much of the price of waking another CPU stands under _raw_spin_unlock_irqrestore and
finish_task_switch, which therefore belong to the wake-ups.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

KERNEL = "kernel"
#: of a sample without a name
UNKNOWN = "[unknown]"
TOP = 15


@dataclass(frozen=True, slots=True)
class Group:
    """`place` has to match the whole place, `symbol` the beginning of the name."""

    key: str
    title: str
    place: str
    symbol: str = ""


_SLICING = r"(segment|coalesce|checksum)\.c"
_PATHS = r"(multipath\w*|paths|reorder|scheduler|ack|align|bunch|window|fairqueue)\.c"
#: with or without the underscores that the kernel likes to begin a name with
_U = r"_*"

GROUPS = (
    Group("aead", "AEAD", r"libIPSec_MB.*|libcrypto.*|aead\.c"),
    Group("slicing", "our C: slicing, merging", _SLICING),
    Group("paths", "our C: frames and paths", _PATHS),
    Group("own", "our C: the rest", r"\w+\.c|_lib\..*"),
    Group("python", "Python", r"python.*|_cffi_backend.*|.*\.cpython-.*|libsqlite3.*|libffi.*"),
    Group("memory_copies", "copies within the agent", r"libc\.so.*", r"_*mem"),
    Group("copies", "copies kernel/user", KERNEL,
          _U + r"(copy_|rep_movs|csum_partial_copy|csum_and_copy|check_(object_size|heap|stack)"
          r"|virt_addr_valid|skb_datagram_iter|simple_copy_to|skb_copy_"
          r"|ip_generic_getfrag|(pi_)?memcpy|iov_iter|import_iovec|put_cmsg)"),
    Group("tun", "TUN", KERNEL, _U + r"(tun_|ptr_ring|virtio_net_hdr)"),
    Group("wakeups", "wake-ups, scheduler, interrupts, locks", KERNEL,
          _U + r"(raw_(spin|read|write|callee)|pv_|mutex|finish_task|prepare_task|schedule|sched_"
          r"|try_to_wake|ttwu|wake|default_wake|autoremove_wake|woken|select_task|select_idle"
          r"|enqueue_(task|entity)|dequeue_(task|entity)|pick_|set_next|put_prev|update_(curr|load"
          r"|rq|se|cfs)|place_entity|prepare_to_wait|finish_wait|futex|eventfd|smp_|switch|resched"
          r"|handle_softirqs|do_softirq|local_bh|irq|asm_|sysvec|hrtimer|tick_|native_|rb_|rseq"
          r"|sock_def_readable)"),
    Group("syscalls", "system calls, io_uring, epoll", KERNEL,
          _U + r"(io_|entry_|(do_)?syscall|(x64|do|se)?_?sys_|fput|fget|fdget|ep_|do_epoll"
          r"|rw_verify|vfs_|kiocb|sock_(recv|send)msg|security_|xas?_|exit_to_user|clear_bhb)"),
    Group("bpf", "eBPF: shield, counters, steering", r"kernel|bpf_prog_.*",
          _U + r"(bpf|htab|lookup_nulls|array_map|cls_bpf|tcx_)"),
    Group("memory", "kernel memory", KERNEL,
          _U + r"(kmem_cache|kmalloc|kfree(?!_skb_)|slab|alloc_(frozen_)?page|free_|folio|page_"
          r"|get_page|put_page|memcg|obj_cgroup|clear_page|rmqueue|mod_(zone|node|memcg)|list_(add|del)"
          r"|skb_page_frag|skb_release_data|skb_free_head|napi_skb_cache|get_pfn|memset)"),
    Group("network", "network stack", KERNEL,
          _U + r"(tcp|udp|ip|inet|raw_local|raw_v[46]|sk|skb|pskb|kfree_skb|consume_skb|alloc_skb"
          r"|build_skb|validate_xmit|sock|lock_sock|release_sock|netif|napi|net_|dev_|veth|fib_|dst_"
          r"|rt_|neigh|qdisc|xfrm|nf_|gro_|bbr_|eth_|loopback|process_backlog|enqueue_to_backlog"
          r"|reuseport|flow_|csum|datagram|lookup|rcu_|ktime|read_tsc|siphash)"),
    Group("libraries", "other libraries", r"lib.*|ld-.*|\[vdso\]"),
)  # fmt: skip
OTHER = Group("other", "other", "")
EVERY = (*GROUPS, OTHER)

_SAMPLE = re.compile(r"\s*[0-9a-f]+\s+(.*?)\s+\((.*)\)$")
_DEFINED = re.compile(r"^[a-z][\w *]*?\b(\w+)\([^;\n]*$", re.MULTILINE)
_COMPILED = [(g, re.compile(g.place), re.compile(g.symbol)) for g in GROUPS]


@dataclass(frozen=True, slots=True)
class Sample:
    place: str
    symbol: str


def sources(folder: Path) -> dict[str, str]:
    """Which file of csrc/ defines a function; one that several define statically is in none."""
    found: dict[str, str] = {}
    twice: set[str] = set()
    for path in sorted(folder.rglob("*.c")):
        for name in set(_DEFINED.findall(path.read_text())):
            if name in found:
                twice.add(name)
            found[name] = path.name
    return {name: file for name, file in found.items() if name not in twice}


def parse(script: str, files: Mapping[str, str]) -> list[Sample]:
    """The lines of `perf script -F ip,sym,dso`; what is none is passed over."""
    samples = []
    for line in script.splitlines():
        match = _SAMPLE.match(line)
        if match is None:
            continue
        # What the compiler made of a function is that function: name.isra.0, name.part.1.
        symbol, place = re.sub(r"\.(isra|part|constprop|cold).*$", "", match[1]), match[2]
        if place.startswith("[") and place not in ("[vdso]", UNKNOWN):
            place = KERNEL  # or a module of it
        place = place.rsplit("/", 1)[-1]
        if place.startswith("_lib."):
            place = files.get(symbol, place)
        samples.append(Sample(place, symbol))
    return samples


def group_of(sample: Sample) -> Group:
    for group, place, symbol in _COMPILED:
        if place.fullmatch(sample.place) and symbol.match(sample.symbol):
            return group
    return OTHER


def shares(samples: Iterable[Sample]) -> dict[str, float]:
    """Per cent of the samples by group, every group named. ValueError: no samples."""
    counts = Counter(group_of(s).key for s in samples)
    total = counts.total()
    if not total:
        raise ValueError("perf took no samples")
    return {g.key: 100 * counts[g.key] / total for g in EVERY}


def top(samples: Iterable[Sample], count: int = TOP) -> dict[str, float]:
    """Per cent of the most frequent symbols, "name (place)"."""
    counts = Counter(samples)
    total = counts.total()
    return {f"{s.symbol} ({s.place})": 100 * n / total for s, n in counts.most_common(count)}


def nameless(samples: Iterable[Sample]) -> float:
    """Which share (0 to 1) of the samples of the kernel, or of nobody knows where, has no name."""
    names = [s.symbol == UNKNOWN for s in samples if s.place in (KERNEL, UNKNOWN)]
    return sum(names) / len(names) if names else 0.0
