"""The demo's picture: throughput of each path and of the download, and ping, over time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tools.demo_record import Record
from tools.mpbench import judge
from tools.mpbench.plots import EVENT, LINKS, smooth
from tools.netlab import LabError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FLOW, PING = "#222222", "#2563a8"
#: samples of 20 ms that make one point: fewer are too restless to look at
SMOOTH = 10


def check(path: Path) -> None:
    """Fail before the work and not after it. LabError: the picture could not be drawn there."""
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise LabError(f"matplotlib is not there ({error}); `make setup` installs it") from error
    mpl.use("Agg")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("ab").close()
    except OSError as error:
        what = f"the picture cannot be written: {error}; name another place with --png"
        raise LabError(what) from error


def draw(record: Record, path: Path) -> None:
    """Write the PNG. OSError: it cannot be written."""
    from matplotlib import pyplot

    figure, (upper, lower) = pyplot.subplots(
        2, 1, figsize=(10, 6.4), layout="constrained", sharex=True, height_ratios=(3, 1)
    )
    _throughput(upper, record)
    _pings(lower, record)
    for axes in (upper, lower):
        axes.axvspan(record.cut - record.began, record.back - record.began, color=EVENT, alpha=0.12)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    figure.suptitle("One download through one tunnel over two links; no rate configured")
    try:
        figure.savefig(str(path), dpi=110)
    finally:
        pyplot.close(figure)


def _throughput(axes: Axes, record: Record) -> None:
    times = [t - record.began for t in record.times[1:]]

    def line(device: str, color: str, label: str, width: float) -> None:
        rates = judge.rates_mbps(record.times, record.counts[device])
        axes.plot(times, smooth(rates, SMOOTH), color=color, lw=width, label=label)

    links = zip(record.names, record.devices, record.alone_mbps, LINKS, strict=False)
    for name, device, alone, color in links:
        line(device, color, f"{name} (on the wire)", 1.4)
        axes.axhline(alone, color=color, ls=":", lw=1.2)
        _beside(axes, alone, f"{name} alone", color)
    total = sum(record.alone_mbps)
    axes.axhline(total, color=FLOW, ls=":", lw=1.2)
    _beside(axes, total, "the sum", FLOW)
    line(record.tunnel, FLOW, "the download (in the tunnel)", 1.6)
    for text, at in (("cut", record.cut), ("back", record.back)):
        axes.annotate(f"{record.names[0]} {text}", (at - record.began, 0.9), (3, -10),
                      xycoords=("data", "axes fraction"), textcoords="offset points",
                      fontsize="small", color=EVENT)  # fmt: skip
    axes.set_ylim(0, max(total, 1.0) * 1.3)
    axes.set_ylabel("Mbit/s")
    axes.legend(loc="upper right", ncols=3, framealpha=0.85, fontsize="small")


def _beside(axes: Axes, y: float, text: str, color: str) -> None:
    """A word at the right margin."""
    axes.annotate(text, (1, y), (4, -3), xycoords=("axes fraction", "data"),
                  textcoords="offset points", fontsize="small", color=color)  # fmt: skip


def _pings(axes: Axes, record: Record) -> None:
    answers = [(at - record.began, ms) for at, ms in record.pings.answers]
    axes.plot([at for at, _ in answers], [ms for _, ms in answers], ".", color=PING, ms=3)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("ping, ms")
    axes.set_xlabel("s")
