"""perf's samples by groups: what a line says, where a function belongs, that shares add up."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake import make_run, series

from tools.bench import groups, plots, report
from tools.bench.compare import compare
from tools.bench.groups import KERNEL, OTHER, Sample, group_of, parse
from tools.bench.model import Run, Series
from tools.bench.profiles import METRICS as PROFILE_METRICS
from tools.peers import ROOT

SCRIPT = """\
     7fe4d396b809 imb_aes_gmac_update_256_avx_gen4 (/usr/lib/x86_64-linux-gnu/libIPSec_MB.so.1.3.0)
 ffffffff81b6a460 _copy_from_iter ([kernel.kallsyms])
 ffffffff81b6a461 _copy_from_iter ([kernel.kallsyms])
 ffffffffc0a01234 tun_do_read ([tun])
     7fe4d3953c4c ws_send_packet (/somewhere/whalescale/dataplane/_lib.abi3.so)
     7fe4d3953c4d reserve.constprop.0 (/somewhere/whalescale/dataplane/_lib.abi3.so)
     7fe4d3953c4e memcpy@plt (/somewhere/whalescale/dataplane/_lib.abi3.so)
 ffffffff81b6a462 finish_task_switch.isra.0 ([kernel.kallsyms])
 ffffffffc0000001 bpf_prog_3a2d92409ad11689_paths_in (bpf_prog_3a2d92409ad11689_paths_in)
           4f5d3c [unknown] (/usr/bin/python3.11)
                0 [unknown] ([unknown])
not a sample
"""


def test_the_lines_of_perf() -> None:
    samples = parse(SCRIPT, {"ws_send_packet": "send.c"})
    assert samples == [
        Sample("libIPSec_MB.so.1.3.0", "imb_aes_gmac_update_256_avx_gen4"),
        Sample(KERNEL, "_copy_from_iter"),
        Sample(KERNEL, "_copy_from_iter"),
        Sample(KERNEL, "tun_do_read"),
        Sample("send.c", "ws_send_packet"),
        Sample("_lib.abi3.so", "reserve"),
        Sample("_lib.abi3.so", "memcpy@plt"),
        Sample(KERNEL, "finish_task_switch"),
        Sample("bpf_prog_3a2d92409ad11689_paths_in", "bpf_prog_3a2d92409ad11689_paths_in"),
        Sample("python3.11", "[unknown]"),
        Sample("[unknown]", "[unknown]"),
    ]
    assert not any("/" in s.place for s in samples), "results are published: no machine's paths"
    shares = groups.shares(samples)
    assert sum(shares.values()) == pytest.approx(100)
    assert shares["copies"] == pytest.approx(100 * 2 / 11)
    assert shares["own"] == pytest.approx(100 * 3 / 11)
    assert shares["other"] == pytest.approx(100 / 11)
    first = next(iter(groups.top(samples).items()))
    assert first == (f"_copy_from_iter ({KERNEL})", pytest.approx(100 * 2 / 11))
    assert len(groups.top(samples, 3)) == 3


@pytest.mark.parametrize(
    ("place", "symbol", "key"),
    [
        ("libcrypto.so.3", "ChaCha20_ctr32", "aead"),
        ("aead.c", "imb_run", "aead"),
        ("coalesce.c", "parse_l4", "slicing"),
        ("multipath_send.c", "ws_multipath_seq", "paths"),
        ("uring.c", "uring_turn", "own"),
        ("python3.11", "_PyEval_EvalFrameDefault", "python"),
        ("_cffi_backend.cpython-311-x86_64-linux-gnu.so", "cdata_call", "python"),
        ("libc.so.6", "__memmove_avx512_unaligned_erms", "memory_copies"),
        ("libc.so.6", "epoll_wait", "libraries"),
        ("liburing.so.2.3", "[unknown]", "libraries"),
        (KERNEL, "_copy_to_iter", "copies"),
        (KERNEL, "rep_movs_alternative", "copies"),
        (KERNEL, "skb_copy_datagram_iter", "copies"),
        (KERNEL, "__check_object_size", "copies"),
        (KERNEL, "tun_get_user", "tun"),
        (KERNEL, "_raw_spin_unlock_irqrestore", "wakeups"),
        (KERNEL, "try_to_wake_up", "wakeups"),
        (KERNEL, "handle_softirqs", "wakeups"),
        (KERNEL, "io_submit_sqes", "syscalls"),
        (KERNEL, "entry_SYSCALL_64_after_hwframe", "syscalls"),
        (KERNEL, "__x64_sys_io_uring_enter", "syscalls"),
        (KERNEL, "__htab_map_lookup_elem", "bpf"),
        (KERNEL, "kmem_cache_alloc_node_noprof", "memory"),
        (KERNEL, "kfree_skbmem", "memory"),
        (KERNEL, "kfree_skb_reason", "network"),
        (KERNEL, "__ip_append_data", "network"),
        (KERNEL, "raw_local_deliver", "network"),
        (KERNEL, "tcp_ack", "network"),
        (KERNEL, "[unknown]", "other"),
        (KERNEL, "is_vmalloc_addr", "other"),
        ("iperf3", "main", "other"),
    ],
)
def test_where_a_function_belongs(place: str, symbol: str, key: str) -> None:
    assert group_of(Sample(place, symbol)).key == key


def test_without_samples_there_are_no_shares() -> None:
    with pytest.raises(ValueError, match="no samples"):
        groups.shares([])


def test_a_kernel_without_names_shows() -> None:
    hidden = parse(" ffffffff81b6a460 [unknown] ([kernel.kallsyms])\n" * 3, {})
    assert groups.nameless(hidden) == 1.0
    nowhere = parse(" ffffffff81b6a460 [unknown] ([unknown])\n" * 3, {})
    assert groups.nameless(nowhere) == 1.0
    assert groups.nameless(parse(SCRIPT, {})) == pytest.approx(1 / 5)
    assert groups.nameless([]) == 0.0


def test_functions_are_found_in_their_files(tmp_path: Path) -> None:
    (tmp_path / "one.c").write_text(
        "static int at(int x)\n{\n\treturn helper(x);\n}\n\nint ws_one(int a,\n\t   int b)\n{\n}\n"
        "void ws_only_declared(int a);\n"
    )
    (tmp_path / "two.c").write_text("static long at(void)\n{\n}\nstruct x *ws_two(void)\n{\n}\n")
    assert groups.sources(tmp_path) == {"ws_one": "one.c", "ws_two": "two.c"}, "at() is in both"
    ours = groups.sources(ROOT / "csrc")
    assert ours["ws_send_packet"] == "send.c"
    assert ours["ws_receive"] == "receive.c"
    assert ours["uring_turn"] == "uring.c"


def test_keys_are_each_ones_own() -> None:
    keys = [g.key for g in groups.EVERY]
    assert len(set(keys)) == len(keys)
    assert keys[-1] == OTHER.key


def profile(*values: float) -> Series:
    result = series("share_aead", *values)
    for sample in result.samples:
        sample.values |= {"share_other": 100 - sample.values["share_aead"], "symbol: f (x.c)": 1.0}
    return result


def test_a_profile_has_a_row_for_each_group(tmp_path: Path) -> None:
    run = make_run({"profile-sender": {"whalescale": profile(40.0, 41.0, 45.0)}})
    lines = report.markdown(run).splitlines()
    assert "|  | whalescale |" in lines
    assert "| AEAD (%) | 41.0 |" in lines
    assert "| other (%) | 59.0 |" in lines
    assert sum(line.startswith("| ") and "(%)" in line for line in lines) == len(groups.EVERY)
    made = plots.draw(run, tmp_path / "x")
    assert [p.name for p in made] == ["x-profile-sender.png"]
    stored = run.as_json()["results"]["profile-sender"]["whalescale"]["medians"]
    assert stored["symbol: f (x.c)"] == 1.0


def test_a_profile_that_could_not_be_taken_says_why(tmp_path: Path) -> None:
    run = make_run({"profile-receiver": {"whalescale": Series(skipped="perf is not installed")}})
    assert "- whalescale: skipped: perf is not installed" in report.markdown(run).splitlines()
    assert plots.draw(run, tmp_path / "x") == []


def test_another_share_is_no_regression() -> None:
    def run(share: float) -> Run:
        return make_run({"profile-sender": {"whalescale": profile(share)}})

    assert compare(run(10.0), run(90.0)) == []


def test_a_profile_tells_every_group() -> None:
    assert {f"share_{g.key}" for g in groups.EVERY} < set(PROFILE_METRICS)
