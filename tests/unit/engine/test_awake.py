# SPDX-License-Identifier: GPL-3.0-or-later
"""The machine is kept awake while a job runs and no longer, however slow whoever gives the locks is."""

import asyncio
import os
from typing import Any

import pytest

from offsited.core.record import JobRecord, Kind
from offsited.edge.logind import Logind
from offsited.engine import awake
from offsited.engine.awake import Awake

RECORD = JobRecord(job=7, kind=Kind.SYNC, vault="home", target="disk", unit="u", requested=1)


class Bus:
    """Gives a lock per call, when it is let; `held` are the other ends of those that nobody has let go of."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.may_answer = asyncio.Semaphore(0)
        self._ends: list[int] = []

    async def call(self, *arguments: Any) -> tuple[int, ...]:
        self.asked.append(arguments[5])
        await self.may_answer.acquire()
        lock, other = os.pipe()
        self._ends.append(other)
        os.set_blocking(other, False)
        return (lock,)

    def held(self) -> int:
        return sum(_has_a_reader(end) for end in self._ends)


def _has_a_reader(end: int) -> bool:
    try:
        os.write(end, b"x")
    except BrokenPipeError:
        return False
    return True


async def _settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.mark.parametrize("answered", [0, 1, 2])
def test_a_job_that_ends_before_the_locks_are_given_leaves_none(answered: int) -> None:
    async def run() -> None:
        bus = Bus()
        kept = Awake(Logind(bus))  # type: ignore[arg-type]
        kept.job_runs(RECORD)
        for _ in range(answered):
            bus.may_answer.release()
        await _settle()
        assert bus.held() == answered
        kept.job_ended(RECORD.job)
        bus.may_answer.release()
        bus.may_answer.release()
        await _settle()
        assert bus.held() == 0

    asyncio.run(run())


def test_a_job_that_hangs_lets_the_machine_sleep_after_a_while(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(awake, "LIMIT", 0.0)

    async def run() -> None:
        bus = Bus()
        kept = Awake(Logind(bus))  # type: ignore[arg-type]
        kept.job_runs(RECORD)
        bus.may_answer.release()
        bus.may_answer.release()
        await _settle()
        assert (len(bus.asked), bus.held()) == (2, 0)
        kept.job_ended(RECORD.job)

    asyncio.run(run())
    assert "the machine may sleep now" in caplog.text
