# SPDX-License-Identifier: GPL-3.0-or-later
"""The life of one job: its inputs, its start and end on record, cancellation. What it does is in sync and restore."""

import asyncio
import os
import signal
import sys
import traceback
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from offsited import layers, names
from offsited.core import config
from offsited.core.outcome import Outcome, Reason, exit_status
from offsited.core.record import JobRecord, Options
from offsited.errors import ConfigInvalid, JobFailed, NoSuchTarget, NoSuchVault
from offsited.store import Store, VaultFiles
from offsited.worker.report import Report


@dataclass(frozen=True)
class Job:
    """Everything that a job works with."""

    number: int
    options: Options
    vault: config.Vault
    target: config.DiskTarget | config.SshTarget
    tools: config.Tools
    files: VaultFiles
    known_hosts: Path
    runtime: Path
    """The unit's own directory below /run: mount points and small files, gone with the unit."""
    report: Report
    key: int = 0
    """Descriptor of the passphrase: standard input. Handed to gocryptfs, never read."""


Ending = tuple[Outcome, Reason]
DONE: Final[Ending] = (Outcome.DONE, Reason.NONE)
Body = Callable[[Job], Coroutine[Any, Any, Ending]]
"""What a job does. It returns how it ended, or raises JobFailed."""


def run(record: JobRecord, store: Store, body: Body) -> int:
    """Run a job to its recorded end, and return the worker's exit status."""
    report = Report(store.vault_files(record.vault), record)
    report.begin()
    outcome, reason = asyncio.run(_supervised(report, store, body))
    report.end(outcome, reason)
    return exit_status(outcome, reason)


async def _supervised(report: Report, store: Store, body: Body) -> Ending:
    async with report.speaking():
        disk = ""
        try:
            job = _prepare(report, store)
            disk = _device_of(job.target)
            return await _until_cancelled(body(job))
        except asyncio.CancelledError:
            return (Outcome.FAILED, Reason.TARGET_LOST) if _is_lost(disk) else (Outcome.CANCELED, Reason.CANCELED)
        except JobFailed as error:
            report.remark(error.detail)
            reason = Reason(error.reason)
            lost = reason is not Reason.TARGET_BUSY and _is_lost(disk)  # a seal that has let go of a part of it
            return Outcome.FAILED, Reason.TARGET_LOST if lost else reason
        except (ConfigInvalid, NoSuchVault, NoSuchTarget) as error:
            report.remark(error.message)
            return Outcome.FAILED, Reason.CONFIG_INVALID
        except Exception as error:
            report.remark(repr(error))
            if _is_lost(disk):
                return Outcome.FAILED, Reason.TARGET_LOST
            # Whatever it is, the job's end must be on record.
            traceback.print_exc(file=sys.stderr)
            return Outcome.FAILED, Reason.INTERNAL


def _device_of(target: config.DiskTarget | config.SshTarget) -> str:
    """The device of a disk that is there now; "" = there is none."""
    return target.device if isinstance(target, config.DiskTarget) and os.path.exists(target.device) else ""


def _is_lost(disk: str) -> bool:
    """Whether a disk that was there is there no more: whatever else went wrong comes from that."""
    node = layers.node_of(Path(disk))
    return bool(disk) and (not os.path.exists(disk) or (node is not None and layers.is_hollow(node)))


async def _until_cancelled(work: Coroutine[Any, Any, Ending]) -> Ending:
    """Run `work`; the first SIGTERM cancels it, and further ones do not disturb its tidying up."""
    task = asyncio.create_task(work)
    loop = asyncio.get_running_loop()
    cancelled = False

    def cancel_once() -> None:
        nonlocal cancelled
        if not cancelled:
            cancelled = True
            task.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, cancel_once)
    return await task


def _prepare(report: Report, store: Store) -> Job:
    """Raise ConfigInvalid, NoSuchVault or NoSuchTarget if the configuration changed since the job was asked for."""
    record = report.record
    vault = store.read_vault(record.vault)
    target = vault.find_target(record.target)
    if target is None:
        raise NoSuchTarget(f"vault {vault.name} has no target {record.target}")
    return Job(
        number=record.job,
        options=record.options,
        vault=vault,
        target=target,
        tools=store.read_settings().tools,
        files=store.vault_files(record.vault),
        known_hosts=store.etc / names.KNOWN_HOSTS,
        runtime=Path(os.environ["RUNTIME_DIRECTORY"].partition(":")[0]),
        report=report,
    )
