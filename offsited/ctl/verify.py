# SPDX-License-Identifier: GPL-3.0-or-later
"""verify and restore-test: is what a target holds what its manifest says, and does it come back?"""

import os
from collections.abc import Iterator
from dataclasses import dataclass

from offsited import names
from offsited.core import words
from offsited.core.verification import Difference
from offsited.ctl import agent, jobs, objects
from offsited.ctl.client import Client, Request, option
from offsited.ctl.output import Output
from offsited.errors import Exit


@dataclass(frozen=True)
class VerifyWish:
    """What a person chose for a verification."""

    level: str = ""
    sample: int = 0
    repair: bool = False
    timed: bool = False


def verify(out: Output, client: Client, vault: str, target: str, wish: VerifyWish) -> int:
    """Verify a target ("" = the default one) and name what is wrong; return the exit status. Who repairs gets that of the sync."""
    client.subscribe()
    findings = os.memfd_create("offsited-findings", os.MFD_CLOEXEC)
    try:
        with agent.on_terminal():
            arguments = (target, 0, _options(wish))
            request = Request(jobs.vault_path(client, vault), names.VAULT, "Verify", "sha{sv}", arguments, fds=(findings,), acts=True)
            reply = client.call(request)
        status = jobs.see_through(out, client, vault, int(objects.leaf(reply.body[0])), quiet=wish.timed)
        # What a timer starts writes to the journal, where no name of a user's file belongs.
        if not wish.timed:
            show_findings(out, findings)
    finally:
        os.close(findings)
    if wish.repair and status == Exit.DIFFERENT:
        return jobs.sync(out, client, vault, target, jobs.SyncWish(timed=wish.timed))
    return status


def restore_test(out: Output, client: Client, vault: str, target: str, *, timed: bool) -> int:
    """Restore some of what a target holds for proof; return the exit status."""
    client.subscribe()
    options = {"timed": option("b", value=True)} if timed else {}
    with agent.on_terminal():
        path = jobs.vault_path(client, vault)
        reply = client.call(Request(path, names.VAULT, "RestoreTest", "sa{sv}", (target, options), acts=True))
    return jobs.see_through(out, client, vault, int(objects.leaf(reply.body[0])), quiet=timed)


def _options(wish: VerifyWish) -> dict[str, object]:
    options = {"level": option("s", wish.level)} if wish.level else {}
    if wish.sample:
        options["sample"] = option("u", wish.sample)
    for name in ("repair", "timed"):
        if getattr(wish, name):
            options[name] = option("b", value=True)
    return dict(options)


def show_findings(out: Output, findings: int) -> None:
    """Print what a job has written into a file as differences."""
    for difference in _told(findings):
        _show(out, difference)


def _told(findings: int) -> Iterator[Difference]:
    with open(os.dup(findings), "rb") as file:
        file.seek(0)
        for line in file:
            try:
                yield Difference.decode(line)
            except (ValueError, KeyError):  # of a newer daemon
                continue


def _show(out: Output, difference: Difference) -> None:
    path = difference.path.decode("utf-8", "surrogateescape")
    out.put({"path": path, "what": difference.what.value, "detail": difference.detail, "own": difference.own})
    kept_by = "offsited: " if difference.own else ""
    detail = f": {difference.detail}" if difference.detail else ""
    out.say(words.printable(f"{kept_by}{path or '.'}: {difference.what}{detail}"))
