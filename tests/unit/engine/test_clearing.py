# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks that were pulled out: whose job ends, and when what is left of an array is cleared away. With real arrays: tests/vm."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from offsited.core.config import DiskTarget
from offsited.core.record import JobRecord, Kind
from offsited.core.unit import UnitEnd, UnitSpec
from offsited.engine.arrivals import Arrivals
from offsited.engine.clearing import Clearing

SEED = DiskTarget(name="seed", kind="disk", label="SEED", directory="home")


class Pulled:
    """A machine on which the seed's disks are gone, and jobs that are asked to end."""

    def __init__(self, *kinds: Kind) -> None:
        self.here = ""
        self.left = "dm-0"
        self.jobs = [self._job(kind) for kind in kinds]
        self.cancelled: list[Kind] = []

    @staticmethod
    def _job(kind: Kind) -> Any:
        record = JobRecord(job=7, kind=kind, vault="home", target="seed", unit="u", requested=1)
        return type("Job", (), {"record": record, "number": record.job})

    def running(self) -> Sequence[Any]:
        return self.jobs

    async def cancel(self, job: Any) -> None:
        self.cancelled.append(job.record.kind)

    def arrival(self, _target: DiskTarget) -> str:
        return self.here

    def present(self, _target: DiskTarget) -> bool:
        return bool(self.here)

    def hollow(self, _target: DiskTarget) -> str:
        return self.left


class Units:
    """Runs each unit until it may end."""

    def __init__(self, status: int = 0) -> None:
        self.started: list[str] = []
        self.may_end = asyncio.Event()
        self._end = UnitEnd(known=True, result="success", exit_status=status, exited=True)

    async def start(self, spec: UnitSpec, *_: Any) -> "Units":
        self.started.append(spec.name)
        return self

    async def ended(self) -> UnitEnd:
        await self.may_end.wait()
        return self._end

    def forget(self, _unit: str) -> None:
        return


async def _settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.mark.parametrize(("kind", "cancelled"), [(Kind.SYNC, [Kind.SYNC]), (Kind.VERIFY, [Kind.VERIFY]), (Kind.SEAL, [])])
def test_a_job_ends_with_its_disk_but_a_seal_that_lets_go_of_it(kind: Kind, cancelled: list[Kind]) -> None:
    async def go() -> None:
        pulled = Pulled(kind)
        arrivals = Arrivals(pulled, pulled, _never)  # type: ignore[arg-type]
        vault: Any = type("Vault", (), {"name": "home"})
        arrivals.look(vault, SEED)
        await _settle()
        assert pulled.cancelled == cancelled

    asyncio.run(go())


async def _never(*_: Any) -> None:
    raise AssertionError("a sync was started")


@pytest.mark.parametrize(("status", "told"), [(0, "dm-0 was cleared away"), (1, "dm-0 is in use")])
def test_what_is_left_is_cleared_away_once_no_job_uses_it(status: int, told: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")

    async def go() -> None:
        pulled, units = Pulled(Kind.SYNC), Units(status)
        clearing = Clearing(pulled, units, pulled)  # type: ignore[arg-type]
        clearing.look("home", SEED)
        await _settle()
        assert units.started == []
        pulled.jobs = []
        for _ in range(3):
            clearing.look("home", SEED)
            await _settle()
        assert units.started == ["offsited-clear-dm-0.service"]
        units.may_end.set()
        await _settle()
        assert told in caplog.text
        clearing.look("home", SEED)
        await _settle()
        assert len(units.started) == 2
        pulled.left = ""
        clearing.look("home", SEED)
        await _settle()
        assert len(units.started) == 2

    asyncio.run(go())
