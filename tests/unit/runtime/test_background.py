"""Looks at what is wanted, one at a time."""

from __future__ import annotations

import asyncio

from whalescale.runtime.background import Background, Settling


async def seen(found: list[bool], count: int) -> None:
    for _ in range(20):
        if len(found) < count:
            await asyncio.sleep(0)
    assert len(found) == count


def test_who_asks_during_a_look_gets_another_one() -> None:
    async def run() -> None:
        begun, go = 0, asyncio.Event()
        stale: list[bool] = []

        async def look() -> None:
            nonlocal begun
            begun += 1
            await go.wait()
            stale.append(settling.stale)

        settling = Settling(Background(), look)
        settling.soon()
        settling.soon()
        await asyncio.sleep(0)
        assert begun == 1
        settling.soon()
        settling.soon()
        go.set()
        await seen(stale, 2)
        assert stale == [True, False]
        await asyncio.sleep(0)
        assert begun == 2
        settling.soon()
        await seen(stale, 3)
        settling.close()
        settling.soon()
        await asyncio.sleep(0)
        assert begun == 3

    asyncio.run(run())


def test_what_is_found_after_the_end_is_stale() -> None:
    async def run() -> None:
        go, stale = asyncio.Event(), list[bool]()

        async def look() -> None:
            await go.wait()
            stale.append(settling.stale)

        settling = Settling(background := Background(), look)
        settling.soon()
        await asyncio.sleep(0)
        settling.close()
        go.set()
        await seen(stale, 1)
        assert stale == [True]
        await background.cancel()

    asyncio.run(run())
