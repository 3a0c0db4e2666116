# SPDX-License-Identifier: GPL-3.0-or-later
"""When a view is renewed: between transfers, and never while one uses it."""

import asyncio
from pathlib import Path

import pytest

from offsited.core.outcome import Reason
from offsited.errors import JobFailed
from offsited.worker import renewal
from offsited.worker.renewal import Renewal
from offsited.worker.tasks import abreast
from offsited.worker.way import CANARY

from .conftest import run
from .machine import Machine, done, failed, holds
from .trees import fill


class Watched:
    """A view that says when somebody uses it while it is renewed."""

    def __init__(self) -> None:
        self.renewal = Renewal(self._renew)
        self.users = self.most = self.renewed = 0
        self.fails = False

    async def _renew(self) -> None:
        assert self.users == 0
        await asyncio.sleep(0.01)
        assert self.users == 0
        if self.fails:
            raise JobFailed(Reason.VIEW_WRONG)
        self.renewed += 1

    async def transfer(self, entries: int) -> None:
        async with self.renewal.showing(entries):
            self.users += 1
            self.most = max(self.most, self.users)
            await asyncio.sleep(0.002)
            self.users -= 1


def test_it_is_renewed_after_so_many_entries_while_nobody_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renewal, "MOUNT_ENTRIES", 100)

    async def work() -> Watched:
        watched = Watched()
        await abreast((watched.transfer(30) for _ in range(40)), 4)
        return watched

    watched = run(work())
    assert watched.renewed == 13, "three transfers each, of forty"
    assert watched.most == 3


def test_what_is_larger_than_that_is_shown_none_the_less(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renewal, "MOUNT_ENTRIES", 100)

    async def work() -> Watched:
        watched = Watched()
        for entries in (500, 500, 1, 99, 1):
            await watched.transfer(entries)
        return watched

    assert run(work()).renewed == 3


def test_that_it_could_not_be_renewed_ends_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renewal, "MOUNT_ENTRIES", 10)

    async def work() -> None:
        watched = Watched()
        watched.fails = True
        await abreast((watched.transfer(10) for _ in range(9)), 3)

    with pytest.raises(JobFailed):
        run(work())


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """After seven entries."""
    monkeypatch.setattr(renewal, "MOUNT_ENTRIES", 7)


def wide(snapshot: Path) -> Path:
    for number in range(60):
        (snapshot / f"wide-{number % 6}").mkdir(exist_ok=True)
        (snapshot / f"wide-{number % 6}" / f"file-{number}").write_text(f"{number}")
    return snapshot


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("options", [{}, {"reconcile": True}], ids=["as usual", "everything compared"])
def test_a_sync_through_several_views(machine: Machine, options: dict[str, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("offsited.worker.outgoing._LOT", 5)
    monkeypatch.setattr("offsited.worker.outgoing._WORTHWHILE", 3)
    snapshot = wide(fill(machine.snapshot("2026-11-23")))
    done(machine.sync())
    holds(machine, snapshot)
    for number in range(0, 60, 2):
        file = snapshot / f"wide-{number % 6}" / f"file-{number}"
        file.unlink()
        file.write_text("another")
    done(machine.sync(**options))
    holds(machine, snapshot)


@pytest.mark.usefixtures("often")
def test_a_later_view_that_shows_something_else_ends_the_job(machine: Machine) -> None:
    wide(fill(machine.snapshot("2026-11-23")))
    with machine.when("offsited.worker.view.View.renew", (machine.known.tree / CANARY).unlink):
        failed(machine.sync(), Reason.VIEW_WRONG)
