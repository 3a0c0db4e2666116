# SPDX-License-Identifier: GPL-3.0-or-later
"""monitor: what happens, as it happens, one line for each thing worth one."""

import json
from collections.abc import Callable

from dbus_next.signature import Variant

from offsited import names

from .conftest import Running
from .fake import FakeDaemon

LOCKED = True
SEED = names.target_path("home", "seed")


def state(fake: FakeDaemon, word: str) -> None:
    fake.change(SEED, names.TARGET, State=Variant("s", word))


def line(running: Running) -> str:
    """The next line, without its time of day."""
    return running.read_line().rstrip("\n")[len("12:34:56 ") :]


def test_a_job_and_a_disk_that_goes(fake: FakeDaemon, start: Callable[..., Running]) -> None:
    running = start("monitor", "home")
    fake.wait_call("GetManagedObjects")
    state(fake, "present")  # as it was: devices come and go that are nobody's
    job = fake.start_job()
    fake.progress(job, "walking")
    fake.progress(job, "sending", 5, 10)
    fake.progress(job, "sending", 9, 10)
    assert line(running) == "home: job 1 (sync, target seed) started"
    assert line(running) == "home: job 1 (sync, target seed): reading the snapshot"
    assert line(running) == "home: job 1 (sync, target seed): sending"
    state(fake, "present")
    fake.end_job(job, "failed", "target-absent")
    assert line(running).endswith("; the target's disk is not there")
    state(fake, "absent")
    state(fake, "absent")
    fake.change(names.vault_path("home"), names.VAULT, Locked=Variant("b", LOCKED))
    assert line(running) == "home: target seed is absent"
    assert line(running) == "home: locked"
    running.interrupt()
    assert running.finish().status == 130


def test_as_json_nothing_is_left_out(fake: FakeDaemon, start: Callable[..., Running]) -> None:
    running = start("monitor", "--json")
    fake.wait_call("GetManagedObjects")
    state(fake, "present")
    event = json.loads(running.read_line())
    assert (event["event"], event["target"], event["changed"]) == ("target-changed", "seed", {"State": "present"})
    running.interrupt()
    assert running.finish().status == 130
