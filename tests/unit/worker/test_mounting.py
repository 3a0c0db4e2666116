# SPDX-License-Identifier: GPL-3.0-or-later
"""Mounting by a program that does not say when it is ready."""

from pathlib import Path

import pytest

from offsited.core.outcome import Reason
from offsited.errors import JobFailed
from offsited.worker import mounting, process
from offsited.worker.process import Child

from .conftest import run


@pytest.mark.parametrize(("command", "told"), [(["sleep", "60"], "sshfs mounted nothing"), (["sh", "-c", "echo no route >&2"], "no route")])
def test_what_mounts_nothing_is_a_target_out_of_reach(
    command: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mounting, "_MOUNTED_WITHIN", 0.5)

    async def wait() -> None:
        child = await Child.start(command, on_line=process.relay)
        try:
            await mounting._until_mounted(child, tmp_path)
        finally:
            await child.end()

    with pytest.raises(JobFailed) as caught:
        run(wait())
    assert caught.value.reason == Reason.TARGET_UNREACHABLE
    assert told in caught.value.detail
