"""The way that is shown for a peer is the one that its data takes."""

from types import SimpleNamespace

from whalescale.protocol.places import Endpoint
from whalescale.runtime.relay import Reach, Way, reached

HOME, CLOUD = Endpoint("192.0.2.1", 51820), Endpoint("192.0.2.2", 51820)
DIRECT, WIDER = Endpoint("203.0.113.7", 4000), Endpoint("203.0.113.8", 4000)
OURS = Endpoint("10.0.0.2", 1)
ANCHORS = {HOME: 1, CLOUD: 2}
NAMES = {1: "home", 2: "cloud"}


def reach(*paths, at=HOME):
    made = [
        SimpleNamespace(remote=remote, local=OURS, usable=usable, weight=weight)
        for remote, usable, weight in paths
    ]
    return reached(made, ANCHORS.get, NAMES.__getitem__, Way(at))


def test_a_direct_path_is_shown_though_handshakes_go_over_an_anchor():
    assert reach((HOME, True, 0.0), (DIRECT, True, 1.0)) == Reach(Way(DIRECT, OURS), "")


def test_of_direct_paths_the_one_with_most_of_the_data():
    assert reach((DIRECT, True, 0.2), (WIDER, True, 0.8)).way.remote == WIDER


def test_the_handshakes_way_stays_while_it_is_used():
    assert reach((DIRECT, True, 0.2), (WIDER, True, 0.8), at=DIRECT).way.remote == DIRECT


def test_anchors_alone():
    found = reach((HOME, True, 0.4), (CLOUD, True, 0.6), (DIRECT, False, 0.0))
    assert found == Reach(Way(HOME, OURS), "cloud, home")


def test_without_paths():
    assert reach() == Reach(Way(HOME), "home")
    assert reach(at=DIRECT) == Reach(Way(DIRECT), "")
    assert reach(at=None) == Reach(Way(None), "")
