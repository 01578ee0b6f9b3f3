from hypothesis import given
from hypothesis import strategies as st

from whalescale.protocol import tai64n

walls = st.integers(0, 2**62)


def test_epoch():
    """https://cr.yp.to/libtai/tai64.html: 1970-01-01 00:00:10 TAI is 2**62 + 10."""
    assert tai64n.encode(0).hex() == "400000000000000a00000000"


def test_the_low_24_bits_of_the_nanoseconds_are_hidden():
    assert tai64n.encode(0xFFFFFF) == tai64n.encode(0)
    assert tai64n.encode(0x1000000) > tai64n.encode(0xFFFFFF)


@given(walls, walls)
def test_order_is_the_order_of_time(a, b):
    if a <= b:
        assert tai64n.encode(a) <= tai64n.encode(b)
    assert len(tai64n.encode(a)) == tai64n.TIMESTAMP_BYTES


@given(walls)
def test_after_is_later_and_whitened(wall):
    stamp = tai64n.encode(wall)
    later = tai64n.after(stamp)
    assert later > stamp
    nanoseconds = int.from_bytes(later[8:], "big")
    assert nanoseconds < 10**9
    assert nanoseconds & 0xFFFFFF == 0
    # and no further than one step of the whitened clock
    assert later <= tai64n.encode(wall + 0x1000000)
