"""Four telling pairs of docs/nat.md's table, with agents behind routers of tools/natbox.py."""

from __future__ import annotations

import pytest

from tools.homes import has_nft
from tools.natcells import meet
from tools.natkinds import Cell, due, modelled
from tools.netlab import Lab

pytestmark = pytest.mark.netns


@pytest.mark.parametrize(
    ("pair", "way"),
    [
        # A new port for each destination gets in where the filter is by address alone.
        (("restricted", "symmetric"), "direct"),
        # A filter by address and port lets no new port of a symmetric NAT in.
        (("port-restricted", "symmetric"), "relay"),
        (("port-restricted", "carrier's behind home's"), "direct"),
        (("public", "UDP blocked"), "nothing"),
    ],
    ids=["by address", "by port", "carrier's", "blocked"],
)
def test_a_pair_comes_out_as_in_the_model(lab: Lab, pair: tuple[str, str], way: str) -> None:
    if not has_nft():
        pytest.skip("needs nft: apt-get install nftables")
    # A direct way is awaited no longer than it takes; a busy machine may need more than usual.
    patience_s = {"direct": 15, "relay": 6, "nothing": 3}[way]
    found = Cell("boxes", pair, *meet(lab, pair, patience_s=patience_s), due(pair))
    assert found.way == way == modelled(pair).way, found
