# SPDX-License-Identifier: GPL-3.0-or-later
"""diff and approve: what a sync would do in clear names, what a limit holds of it, and its release."""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any, Final

import click

from offsited import names
from offsited.core import words
from offsited.ctl import agent, meter, objects
from offsited.ctl.client import Client, Request
from offsited.ctl.follow import follow
from offsited.ctl.jobs import see_through, vault_path
from offsited.ctl.objects import Target
from offsited.ctl.output import Output
from offsited.ctl.planned import held_in_words, tell_dry_run
from offsited.errors import Held, NoSuchTarget

_SIGNS: Final = {"added": ("+", "green"), "replaced": ("~", "yellow"), "deleted": ("-", "red"), "renamed": (">", "cyan")}
_OTHER: Final = {"attributes": ("a", "blue"), "unreadable": ("?", "red")}


def diff(out: Output, client: Client, vault: str, target: str) -> int:
    """Show what a sync to a target ("" = the default one) would do; return the exit status: HELD if a limit would hold something."""
    client.subscribe()
    path = vault_path(client, vault)
    with open(os.memfd_create("offsited-diff", os.MFD_CLOEXEC), "w+", encoding="ascii") as plan:
        with agent.on_terminal():
            request = Request(path, names.VAULT, "Diff", "sha{sv}", (target, 0, {}), fds=(plan.fileno(),), acts=True)
            job = int(objects.leaf(client.call(request).body[0]))
        end = follow(client, job, meter.choose(out, quiet=not sys.stdout.isatty()))
        if end.outcome not in {"done", "held"}:
            return tell_dry_run(out, client, end)
        plan.seek(0)
        if out.json:
            for document in _documents(plan):
                out.put(document)
        else:
            for line in page(_documents(plan)):
                out.say(line)
    return tell_dry_run(out, client, end)


def approve(out: Output, client: Client, vault: str, target: str, plan: str) -> int:
    """Release what is held at a target ("" = the default one), and follow the sync that does it. Without `plan`, ask on the terminal."""
    client.subscribe()
    path = vault_path(client, vault)
    found = _target(client, vault, target)
    if not found.held.plan:
        raise Held(f"nothing waits for an approval at target {found.name}", hint=f"See: offsitectl status {vault}")
    if not plan:
        plan = _asked(out, vault, found)
    with agent.on_terminal():
        reply = client.call(Request(path, names.VAULT, "Approve", "ssa{sv}", (found.name, plan, {}), acts=True))
    return see_through(out, client, vault, int(objects.leaf(reply.body[0])), quiet=False)


def _asked(out: Output, vault: str, target: Target) -> str:
    """What the person has just seen and agreed to."""
    if not sys.stdin.isatty() or out.json:
        raise click.UsageError(f"Where nobody can be asked, name what is to be released: --plan {target.held.plan}")
    out.say(f"{held_in_words(target.held)} held at target {target.name} (plan {target.held.plan})")
    out.say(f"What it is in detail: offsitectl diff {vault} --target {target.name}")
    click.confirm("Release it, and sync now?", abort=True)
    return target.held.plan


def _target(client: Client, vault: str, name: str) -> Target:
    targets = next(found for found in objects.vaults(client.managed_objects()) if found.name == vault).targets
    found = next((target for target in targets if name in {target.name, ""}), None)
    if found is None:
        raise NoSuchTarget(f"vault {vault} has no target {name}", hint=f"See the targets: offsitectl status {vault}")
    return found


# --- a plan as lines -----------------------------------------------------------------------------------------------


_Key = tuple[str, ...]
"""What happens, and to what: of a rename both paths, of everything else the path last."""


@dataclass
class _Line:
    """One line of the page: a path, or a directory with all that is in it."""

    sign: str
    colour: str
    path: str
    held: bool
    entries: int = 0
    size: int = 0
    remark: str = ""

    def text(self) -> str:
        count = f"{words.number(self.entries, 'entry')}, " if self.path.endswith("/") or self.entries > 1 else ""
        remark = self.remark or f"{count}{words.size(self.size)}{' to send again' if self.sign == '>' else ''}"
        held = f"  {click.style('held', fg='yellow')}" if self.held else ""
        return f"{click.style(self.sign, fg=self.colour)} {self.path}  {click.style(remark, dim=True)}{held}"


def page(documents: Iterable[Mapping[str, Any]]) -> list[str]:
    """Given the documents of a plan in path order, return its lines.

    What came or went with its directory is one line, so is what moved with one, whose empty directory is then no line of its own.
    Attributes of directories change every day: they are left out.
    """
    lines: dict[_Key, _Line] = {}
    for document in documents:
        key, line = _grouped(document, lines)
        if line is not None:
            known = lines.setdefault(key, line)
            known.entries += document.get("type") != "d"
            known.size += int(document.get("size", 0))
    moved = {path for word, *paths in lines if word == "renamed" for path in paths}
    return [line.text() for (_, *paths), line in lines.items() if line.entries or line.remark or paths[-1] not in moved]


def _grouped(document: Mapping[str, Any], lines: Mapping[_Key, _Line]) -> tuple[_Key, _Line | None]:
    """The line that a document belongs to, by its key; None if it is not shown."""
    word, path, held = str(document["change"]), str(document["path"]), bool(document.get("held", False))
    if word == "renamed":
        old, new = common(str(document["from"]), path)
        return (word, old, new), _Line(*_SIGNS[word], f"{words.printable(old)} -> {words.printable(new)}", held)
    if word in _OTHER:
        if document.get("type") == "d":
            return (word,), None
        remark = str(document.get("error", "attributes"))
        return (word, path), _Line(*_OTHER[word], words.printable(path), held, remark=remark)
    for top in parents(path):
        if (word, str(held), top) in lines:
            return (word, str(held), top), lines[word, str(held), top]
    slash = "/" if document.get("type") == "d" else ""
    return (word, str(held), path), _Line(*_SIGNS[word], words.printable(path or ".") + slash, held)


def common(old: str, new: str) -> tuple[str, str]:
    """Given two paths of the same thing, return them without the last parts that they have in common.

    ('photos/2025/a.jpg', 'photos/old/a.jpg') is ('photos/2025', 'photos/old'); what only moved keeps its own name.
    """
    one, other = old.split("/"), new.split("/")
    while len(one) > 1 and len(other) > 1 and one[-1] == other[-1]:
        one.pop()
        other.pop()
    if one[-1] == other[-1]:
        return old, new
    return "/".join(one), "/".join(other)


def parents(path: str) -> Iterator[str]:
    """The directories that a path lies in, topmost first."""
    parts = path.split("/")
    for depth in range(1, len(parts)):
        yield "/".join(parts[:depth])


def _documents(plan: IO[str]) -> Iterator[dict[str, Any]]:
    for line in plan:
        yield json.loads(line)
