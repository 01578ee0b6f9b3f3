"""Where a member says that it is: what is told first helps most."""

from __future__ import annotations

from whalescale.protocol.mesh.guest import _places
from whalescale.protocol.mesh.records import Place, PlaceKind
from whalescale.protocol.places import Endpoint, LocalLink


def test_what_a_gateway_maps_stands_before_addresses_of_the_site() -> None:
    links = [
        LocalLink("172.17.0.1", 4, "docker0", 1500, spare=True),
        LocalLink("192.168.1.2", 2, "eth0", 1500),
        LocalLink("2600::2", 2, "eth0", 1500),
    ]
    mapped = Endpoint("5.6.7.8", 40001)
    assert _places(links, 51820, [("eth0", mapped)]) == [
        Place(Endpoint("2600::2", 51820)),
        Place(mapped, PlaceKind.MAPPED),
        Place(Endpoint("192.168.1.2", 51820)),
        Place(Endpoint("172.17.0.1", 51820)),
    ]
    assert _places(links, 0, [("eth0", mapped)]) == []
    # A gateway that maps to what we have anyway: each place is told once.
    own = Endpoint("192.168.1.2", 51820)
    assert len(_places(links, 51820, [("eth0", own)])) == 3
