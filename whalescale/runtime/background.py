"""Tasks that nobody awaits, ended together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any


class Background:
    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def cancel(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Settling:
    """One look at a time at what is wanted; who asks while it lasts gets another one after it."""

    def __init__(self, background: Background, look: Callable[[], Awaitable[None]]) -> None:
        self._background = background
        self._look = look
        self.running = False
        self.closed = False
        #: asked for since the look under way began
        self.again = False

    def soon(self) -> None:
        self.again = True
        if not self.running and not self.closed:
            self.running = True
            self._background.spawn(self._run())

    def close(self) -> None:
        """No look begins any more; one that is under way finds `stale` true."""
        self.closed = True

    @property
    def stale(self) -> bool:
        """What the look under way has found is not to be acted on: there will be another, or none
        is wanted."""
        return self.again or self.closed

    async def _run(self) -> None:
        try:
            while self.again and not self.closed:
                self.again = False
                await self._look()
        finally:
            self.running = False
