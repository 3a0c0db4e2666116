# SPDX-License-Identifier: GPL-3.0-or-later
"""Several things at once: what fails or is cancelled leaves nothing running behind."""

import asyncio
import threading
import time

import pytest

from offsited.core.outcome import Reason
from offsited.errors import JobFailed
from offsited.worker.tasks import abreast, to_its_end, together

from .conftest import run


def test_so_many_run_at_a_time_and_the_next_begins_when_one_ends() -> None:
    running: list[int] = []
    most: list[int] = []

    async def one(number: int) -> None:
        running.append(number)
        most.append(len(running))
        await asyncio.sleep(0.01 * (number % 3))
        running.remove(number)

    run(abreast((one(number) for number in range(9)), 2))
    assert (len(most), max(most), running) == (9, 2, [])


def test_what_fails_ends_the_others_and_lets_none_begin() -> None:
    begun: list[int] = []
    ended: list[int] = []

    async def one(number: int) -> None:
        begun.append(number)
        try:
            await asyncio.sleep(0.01 if number == 1 else 60)
            raise JobFailed(Reason.RSYNC_FAILED)
        finally:
            ended.append(number)

    with pytest.raises(JobFailed):
        run(abreast((one(number) for number in range(9)), 2))
    assert (begun, sorted(ended)) == ([0, 1], [0, 1])


def test_whoever_is_cancelled_ends_all_of_them() -> None:
    ended: list[int] = []

    async def one(number: int) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(number)

    async def cancelled() -> None:
        task = asyncio.create_task(abreast((one(number) for number in range(9)), 2))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait({task})

    run(cancelled())
    assert sorted(ended) == [0, 1]


def test_both_are_awaited_whichever_fails() -> None:
    ended: list[str] = []

    async def fails() -> int:
        raise JobFailed(Reason.RSYNC_FAILED)

    async def takes_long() -> str:
        await asyncio.sleep(0.05)
        ended.append("long")
        return "long"

    async def at_once() -> int:
        return 1

    assert run(together(at_once(), takes_long())) == (1, "long")
    for pair in ((fails(), takes_long()), (takes_long(), fails())):
        ended.clear()
        with pytest.raises(JobFailed):
            run(together(*pair))
        assert ended == ["long"]


def test_a_thread_has_ended_when_its_task_is_cancelled() -> None:
    """One that went on would write into a database whose transaction is undone, and which is closed."""
    begun, ended = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        time.sleep(0.2)
        ended.set()

    async def alone() -> None:
        await to_its_end(work)

    async def beside() -> None:
        await together(to_its_end(work), asyncio.sleep(60))

    async def cancelled(what: asyncio.Task[None]) -> bool:
        await asyncio.to_thread(begun.wait)
        what.cancel()
        await asyncio.wait({what})
        return what.cancelled() and ended.is_set()

    async def main() -> None:
        for one in (alone, beside):
            begun.clear()
            ended.clear()
            assert await cancelled(asyncio.create_task(one()))

    run(main())
