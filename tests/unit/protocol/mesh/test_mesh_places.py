"""Where a member says that it is: what is told first helps most."""

from __future__ import annotations

from whalescale.protocol.mesh import records
from whalescale.protocol.mesh.directory import Directory, How
from whalescale.protocol.mesh.guest import _places
from whalescale.protocol.mesh.records import EndpointRecord, Place, PlaceKind
from whalescale.protocol.mesh.table import Table
from whalescale.protocol.places import Endpoint, LocalLink

NET = b"n" * 16


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


def test_behind_one_router_private_places_are_dialled_first() -> None:
    """Its public place takes a router that sends back what comes from inside, which few do."""
    member, private, public = b"m" * 32, Endpoint("10.7.0.9", 1), Endpoint("5.6.7.8", 40001)
    far = Endpoint("5.6.7.9", 1)
    table = Table()
    directory = Directory(b"o" * 32, table, Everybody(), lambda *_: True)
    places = (Place(far), Place(public, PlaceKind.MAPPED), Place(private))
    record = EndpointRecord(NET, member, 1, places, False)
    raw = records.encode(record, b"s" * 32)
    directory.merge(raw, record, 0)

    def order() -> list[Endpoint]:
        return [endpoint for endpoint, _ in directory.places(member, 1)]

    assert order() == [far, public, private]
    directory.set_here((), lambda: ("5.6.7.8",))
    assert order() == [private, far, public]
    # A subnet of ours, with no router at all.
    directory.set_here((LocalLink("10.7.0.2", 2, "eth0", 1500, prefix_length=24),), tuple)
    assert order() == [private, far, public]
    directory.set_here((LocalLink("10.7.1.2", 2, "eth0", 1500, prefix_length=24),), tuple)
    assert order() == [far, public, private]
    # What it says on our link comes before all.
    heard = Endpoint("10.7.1.9", 1)
    assert directory.set_near({member: (heard,)}) == {member}
    assert directory.places(member, 1)[0] == (heard, How.NEAR)
    assert directory.set_near({}) == {member}
    assert order() == [far, public, private]


class Everybody:
    network_id = NET

    def is_active(self, _: bytes) -> bool:
        return True
