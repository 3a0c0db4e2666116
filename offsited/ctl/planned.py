# SPDX-License-Identifier: GPL-3.0-or-later
"""What a sync would do, and what a limit holds of it, in words."""

from offsited.core import words
from offsited.ctl.client import Client
from offsited.ctl.follow import detail_of, verdict
from offsited.ctl.objects import Held, JobEnd
from offsited.ctl.output import Output
from offsited.errors import Exit


def tell_dry_run(out: Output, client: Client, end: JobEnd) -> int:
    """Say what a dry run found; return the exit status."""
    error = None if end.outcome in {"done", "held"} else verdict(end, detail_of(client, end.job))
    if error:
        out.put({**end.as_json(), "message": error.message, "hint": error.hint, "exit_status": int(error.exit_status)})
        return out.complain(error, end.vault, put=False)
    out.put({**end.as_json(), "exit_status": int(Exit.HELD if end.held_plan else Exit.DONE)})
    out.say(f"{words.printable(end.vault)}: a sync to {words.printable(end.target)} would {plan_in_words(end)}")
    if not end.held_plan:
        return Exit.DONE
    out.say(f"{held_in_words(end.held)} would be held, as plan {words.printable(end.held_plan)}")
    out.say(f"If it is meant: offsitectl approve {end.vault} --target {end.target} --plan {end.held_plan}")
    return Exit.HELD


def held_in_words(held: Held) -> str:
    """How much is held."""
    return words.deletions_and_changes(held.deleted, held.deleted_bytes, held.changed, held.changed_bytes)


def plan_in_words(end: JobEnd) -> str:
    """What a sync would do, in one line."""
    verbs = (
        ("add", end.plan_added_entries, end.plan_added_bytes),
        ("replace", end.plan_replaced_entries, end.plan_replaced_bytes),
        ("send again under another name", end.plan_renamed_entries, end.plan_renamed_bytes),
        ("delete", end.plan_deleted_entries, end.plan_deleted_bytes),
    )
    parts = [f"{verb} {words.number(entries, 'entry')} ({words.size(size)})" for verb, entries, size in verbs if entries]
    if end.plan_attributes:
        parts.append(f"change attributes of {words.number(end.plan_attributes, 'entry')}")
    if end.plan_unreadable:
        parts.append(f"leave alone {words.number(end.plan_unreadable, 'entry')} that cannot be read")
    return ", ".join(parts) or "find nothing to do"
