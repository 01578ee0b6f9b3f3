import pytest
from hypothesis import given
from hypothesis import strategies as st

from whalescale.protocol import messages as m

u32 = st.integers(0, 2**32 - 1)
LENGTHS = {1: 148, 2: 92, 3: 64, 0x57: 128, 0x58: 128, 0x59: 580}


@pytest.mark.parametrize(("kind", "length"), LENGTHS.items())
def test_each_type_has_one_length(kind, length):
    assert m.message_type(bytes((kind, 0, 0, 0)).ljust(length, b"\0")) == kind
    for wrong in (length - 1, length + 1, 4, 1500):
        with pytest.raises(m.MessageError) as refusal:
            m.message_type(bytes((kind, 0, 0, 0)).ljust(wrong, b"\0"))
        assert refusal.value.reason == "length"
    for at in (1, 2, 3):
        head = bytearray((kind, 0, 0, 0))
        head[at] = 1
        with pytest.raises(m.MessageError) as refusal:
            m.message_type(bytes(head).ljust(length, b"\0"))
        assert refusal.value.reason == "reserved"


@pytest.mark.parametrize("kind", sorted(set(range(256)) - set(LENGTHS)))
def test_other_types_are_refused(kind):
    with pytest.raises(m.MessageError) as refusal:
        m.message_type(bytes((kind, 0, 0, 0)).ljust(148, b"\0"))
    assert refusal.value.reason == "type"


@pytest.mark.parametrize("size", range(4))
def test_short(size):
    with pytest.raises(m.MessageError) as refusal:
        m.message_type(b"\1\0\0\0"[:size])
    assert refusal.value.reason == "short"


@given(u32, st.binary(min_size=108, max_size=108))
def test_initiation(sender, noise):
    data = m.encode_initiation(sender, noise) + bytes(32)
    assert m.message_type(data) == m.INITIATION
    assert m.decode_initiation(data) == m.Initiation(sender, noise)
    assert m.sender_index(data) == sender


@given(u32, u32, st.binary(min_size=48, max_size=48))
def test_response(sender, receiver, noise):
    data = m.encode_response(sender, receiver, noise) + bytes(32)
    assert m.message_type(data) == m.RESPONSE
    assert m.decode_response(data) == m.Response(sender, receiver, noise)


@given(u32, st.binary(min_size=24, max_size=24), st.binary(min_size=32, max_size=32))
def test_cookie_reply(receiver, nonce, sealed):
    data = m.encode_cookie_reply(receiver, nonce, sealed)
    assert m.message_type(data) == m.COOKIE_REPLY
    assert m.decode_cookie_reply(data) == m.CookieReply(receiver, nonce, sealed)
