# SPDX-License-Identifier: GPL-3.0-or-later
"""Several things at once, each of which comes to its end."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

_Result = TypeVar("_Result")
_Other = TypeVar("_Other")


async def abreast(work: Iterator[Coroutine[Any, Any, None]], count: int) -> None:
    """Await all of these, so many at a time. What the first of them raises ends the others and is raised."""

    async def lane() -> None:
        for one in work:
            await one

    lanes = [asyncio.create_task(lane()) for _ in range(count)]
    try:
        ended, _ = await asyncio.wait(lanes, return_when=asyncio.FIRST_EXCEPTION)
        for one in ended:
            one.result()
    finally:
        for one in lanes:
            one.cancel()
        await asyncio.wait(lanes)


async def together(one: Coroutine[Any, Any, _Result], other: Coroutine[Any, Any, _Other]) -> tuple[_Result, _Other]:
    """Await both; an error of either is raised when both have ended, for a thread that runs for one cannot be stopped."""
    first, second = asyncio.create_task(one), asyncio.create_task(other)
    try:
        await asyncio.wait({first, second})
    finally:
        for task in (first, second):
            task.cancel()
        await asyncio.wait({first, second})
    return first.result(), second.result()


async def to_its_end(work: Callable[[], _Result], stop: threading.Event | None = None) -> _Result:
    """As asyncio.to_thread. Cancelled, it tells the thread by `stop` and waits for it: what it works with is about to be closed, and what
    it writes must not come later."""
    running = asyncio.create_task(asyncio.to_thread(work))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        if stop is not None:
            stop.set()
        await asyncio.wait({running})
        raise
