# SPDX-License-Identifier: GPL-3.0-or-later
"""The daemon is killed again and again, at any moment of its life, idle and in a job: vaults stay unlocked, no job is lost.

OFFSITED_KILLS=100 kills it that often in each of the two, instead of 5 times; OFFSITED_SEED repeats the times between.
"""

import os
import random
import signal
import time
from collections.abc import Iterator
from datetime import date, timedelta
from time import monotonic
from typing import Any

import pytest
from dbus_next.constants import MessageType
from dbus_next.message import Message

from .daemon import MANAGER, PROPERTIES, ROOT, SERVICE, VAULT, connect, main_pid, plain, request
from .machine import PATIENCE, must, shown
from .vaults import BULK, OnDisk

KILLS = int(os.environ.get("OFFSITED_KILLS", "5"))
SEED = int(os.environ.get("OFFSITED_SEED", str(random.SystemRandom().randrange(10**6))))
LONGEST = 0.6
"""Seconds between two kills at most: as long as a start takes, and a bit, so that starts are hit too."""


@pytest.fixture(autouse=True)
def moments() -> random.Random:
    """When to kill: other moments in each run; the seed is printed with a failure."""
    print(f"OFFSITED_SEED={SEED} OFFSITED_KILLS={KILLS}")
    return random.Random(SEED)  # noqa: S311 - moments, no secrets


@pytest.fixture(autouse=True)
def running_afterwards() -> Iterator[None]:
    yield
    must("systemctl", "restart", SERVICE)  # the time between restarts grows with their number


def _kill(moments: random.Random) -> None:
    """At a random moment, whatever it does then; as if the last kill were long ago, for the time between restarts in a row grows."""
    must("systemctl", "reset-failed", SERVICE)
    time.sleep(moments.uniform(0, LONGEST))  # not for anything to happen
    pid = main_pid()
    if pid:
        os.kill(pid, signal.SIGKILL)


def _answered(message: Message) -> Any:
    """The first result of a call. Asking starts the daemon; one that was killed before it answered is asked again."""
    end = monotonic() + PATIENCE
    with connect() as peer:
        while (answer := peer.ask(message)).message_type is not MessageType.METHOD_RETURN:
            assert monotonic() < end, answer.error_name
    return plain(answer.body[0])


def _locked(home: OnDisk) -> bool:
    return bool(_answered(request(home.vault.path, PROPERTIES, "Get", "ss", VAULT, "Locked")))


def test_idle(home: OnDisk, moments: random.Random) -> None:
    stored = shown(SERVICE, "NFileDescriptorStore")
    for number in range(KILLS):
        _kill(moments)
        assert not _locked(home), f"after kill {number + 1}"
    assert shown(SERVICE, "NFileDescriptorStore") == stored
    home.vault.synced()


def test_in_a_job(home: OnDisk, moments: random.Random) -> None:
    """Jobs, until it was killed often enough: each ends as it would have, and is on record so."""
    killed = jobs = 0
    snapshot = home.first
    while killed < KILLS:
        jobs += 1
        day = date(2026, 1, 2) + timedelta(days=jobs)
        snapshot = home.vault.next_snapshot(snapshot, day.isoformat(), bulk=BULK, without=("bulk",) if jobs > 1 else ())
        with home.vault.slow_sync() as job:
            while not (end := _answered(request(ROOT, MANAGER, "GetOutcome", "u", job.number)))["outcome"]:
                _kill(moments)
                killed += 1
                assert not _locked(home), f"after kill {killed}"
        assert (end["outcome"], end["reason"]) == ("done", "")
        assert end["sent_entries"] > 0
    print(f"{killed} kills in {jobs} jobs")
    home.vault.synced()
