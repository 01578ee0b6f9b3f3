from hypothesis import given
from hypothesis import strategies as st

from whalescale.protocol.timers import TimerQueue

handles = st.integers(0, 5)
times = st.integers(0, 100)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("set"), handles, st.one_of(st.none(), times)),
        st.tuples(st.just("pop"), st.just(0), times),
    ),
    max_size=200,
)


@given(steps)
def test_against_a_plain_dict(steps):
    queue, model = TimerQueue(), {}
    for step, handle, when in steps:
        if step == "set":
            queue.set(handle, when)
            model.pop(handle, None)
            if when is not None:
                model[handle] = when
        else:
            due = queue.pop_due(when)
            assert sorted(due) == sorted(h for h, at in model.items() if at <= when)
            assert [model[h] for h in due] == sorted(model[h] for h in due)
            model = {h: at for h, at in model.items() if at > when}
        assert queue.next() == min(model.values(), default=None)


def test_deadlines_that_move_keep_the_heap_small():
    queue = TimerQueue()
    for n in range(100_000):
        queue.set(n % 10, 10**9 - n if n % 2 else 10**9 + n)
    assert len(queue._heap) <= 4 * 10 + 64
