# SPDX-License-Identifier: GPL-3.0-or-later
"""sync and cancel: asking for a job, following it, saying how it ended."""

from dataclasses import dataclass
from typing import Final

from offsited import names
from offsited.core import words
from offsited.ctl import agent, meter, objects
from offsited.ctl.client import Client, NoAnswer, Request, option
from offsited.ctl.follow import detail_of, follow, verdict
from offsited.ctl.objects import JobEnd
from offsited.ctl.output import INTERRUPTED, Output
from offsited.ctl.planned import tell_dry_run
from offsited.errors import Exit, OffsitedError

_ALARM: Final = (
    Exit.DONE,
    Exit.ABSENT,
    Exit.BUSY,
    Exit.HELD,
    Exit.LOCKED,
    Exit.DENIED,
    Exit.USAGE,
    Exit.CONFIG,
    Exit.DIFFERENT,
    Exit.FAILED,
)
"""Exit statuses from the least to the most alarming: of several targets the last of these is told."""


SENDING: Final = ("sync", "seal")
"""Kinds of jobs that bring a snapshot to a target."""


@dataclass(frozen=True)
class SyncWish:
    """What a person chose for a sync."""

    allow_older: bool = False
    reconcile: bool = False
    adopt: bool = False
    timed: bool = False
    dry_run: bool = False
    block: bool = True


def sync(out: Output, client: Client, vault: str, target: str, wish: SyncWish) -> int:
    """Sync a vault to one target ("" = the default one); return the exit status."""
    client.subscribe()
    options = {key: option("b", value=True) for key in ("allow_older", "reconcile", "adopt", "timed", "dry_run") if getattr(wish, key)}
    with agent.on_terminal():
        reply = client.call(Request(vault_path(client, vault), names.VAULT, "Sync", "sa{sv}", (target, options), acts=True))
    job = int(objects.leaf(reply.body[0]))
    if not wish.block:
        out.put({"job": job, "vault": vault})
        out.say(f"job {job} started; follow it: offsitectl monitor {vault}")
        return Exit.DONE
    return see_through(out, client, vault, job, quiet=wish.timed)


def sync_all(out: Output, client: Client, vault: str, wish: SyncWish) -> int:
    """Sync a vault to every target, one after another; return the most alarming exit status."""
    statuses: list[int] = []
    for target in targets_of(client, vault):
        try:
            statuses.append(sync(out, client, vault, target, wish))
        except OffsitedError as error:
            statuses.append(out.complain(error, vault))
        if statuses[-1] == INTERRUPTED:
            return INTERRUPTED
    return worst(statuses)


def worst(statuses: list[int]) -> int:
    """Of several exit statuses, the most alarming."""
    return max(statuses, key=lambda status: _ALARM.index(Exit(status)), default=Exit.DONE)


def see_through(out: Output, client: Client, vault: str, job: int, *, quiet: bool) -> int:
    """Follow a job, say how it ended, return the exit status. Ctrl-C ends the following, never the job."""
    try:
        end = follow(client, job, meter.choose(out, quiet=quiet))
    except KeyboardInterrupt:
        out.note(f"job {job} goes on. Follow it: offsitectl monitor {vault}; end it: offsitectl cancel {vault}")
        return INTERRUPTED
    except NoAnswer as error:
        raise NoAnswer(
            f"{error.message} while job {job} ran", hint=f"The job goes on by itself. {error.hint}; then: offsitectl status {vault}"
        ) from None
    if end.dry_run:
        return tell_dry_run(out, client, end)
    return tell(out, end, "" if end.outcome == "done" else detail_of(client, job))


def cancel(out: Output, client: Client, vault: str) -> int:
    """End the job that writes to a vault; return when the daemon has taken note."""
    with agent.on_terminal():
        client.call(Request(vault_path(client, vault), names.VAULT, "Cancel", "a{sv}", ({},), acts=True))
    out.put({"vault": vault, "canceled": True})
    out.say(f"{vault}: the job is being ended")
    return Exit.DONE


def vault_path(client: Client, vault: str) -> str:
    """Return the path of a vault. Raise NoSuchVault or ConfigInvalid."""
    return str(client.call(Request(names.ROOT_PATH, names.MANAGER, "GetVault", "s", (vault,))).body[0])


def targets_of(client: Client, vault: str) -> list[str]:
    """Names of a vault's targets, the default one first. Raise NoSuchVault or ConfigInvalid."""
    vault_path(client, vault)
    return [target.name for found in objects.vaults(client.managed_objects()) if found.name == vault for target in found.targets]


def summary(end: JobEnd) -> str:
    """One line on a job that ended: outcome, counts, bytes, duration, snapshot."""
    figures = [
        f"{words.number(end.sent_entries)} of {words.number(end.entries, 'entry')} sent"
        if end.kind in SENDING
        else words.number(end.entries, "entry")
    ]
    figures.append(words.size(end.sent_bytes if end.kind in SENDING else end.bytes))
    if end.differences:
        figures.append(words.number(end.differences, "difference"))
    if end.deleted_entries:
        figures.append(f"{words.number(end.deleted_entries)} deleted")
    if end.wire_bytes:
        figures.append(f"{words.size(end.wire_bytes)} on the wire")
    figures.append(words.duration(end.seconds))
    if end.snapshot_dated:
        figures.append(f"snapshot of {words.moment(end.snapshot_dated)}")
    return f"{words.printable(end.vault)}: {_course(end)} {words.printable(end.outcome)} (job {end.job}): {', '.join(figures)}"


def _course(end: JobEnd) -> str:
    return f"{end.kind} {words.PREPOSITIONS.get(end.kind, 'of')} {words.printable(end.target)}"


def tell(out: Output, end: JobEnd, detail: str) -> int:
    """Say how a job ended; return the exit status."""
    error = verdict(end, detail)
    told = {"message": error.message, "hint": error.hint} if error else {"message": "", "hint": ""}
    out.put({**end.as_json(), **told, "exit_status": int(error.exit_status if error else Exit.DONE)})
    out.say(summary(end))
    return out.complain(error, end.vault, put=False) if error else Exit.DONE
