# SPDX-License-Identifier: GPL-3.0-or-later
"""target prepare: RAID, LVM and a file system for a disk target, made by a unit of its own once a person has confirmed each disk."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Final

import click
import tomlkit
from tomlkit.items import AoT, Table

from offsited import names
from offsited.core import preparation, unit, words
from offsited.core.config import DiskTarget, Vault, parse_vault
from offsited.core.preparation import Facts, Order, Plan, Wish
from offsited.ctl import root, vaultfile
from offsited.ctl.client import Client, Request
from offsited.ctl.output import Output
from offsited.ctl.vaultfile import DiskSpec
from offsited.errors import ConfigInvalid, Exit, Failed, InvalidArgs
from offsited.store import Store, write_whole

_SYSTEMD_RUN: Final = "/usr/bin/systemd-run"
_LABEL: Final = 12
"""The longest that every file system takes."""


@dataclass(frozen=True)
class Typed:
    """What was typed."""

    vault: str
    target: str
    devices: tuple[str, ...]
    raid: int | None
    lvm: bool
    file_system: str
    wipe: tuple[str, ...]
    confirm: tuple[str, ...]


def prepare(out: Output, store: Store, typed: Typed) -> int:
    """Show what would be done, have it confirmed, do it, and name the new file system in the vault file. Raise what hinders it."""
    root.require("target prepare writes to disks: it needs root")
    vault = store.read_vault(typed.vault)
    target = _disk_target(vault, typed.target)
    wish = _wish(typed, target)
    directory = target.directory if target else typed.vault
    vault_id = store.vault_files(typed.vault).identity()
    file = store.vault_file(typed.vault)
    after = with_disk(file.read_text("utf-8"), wish, directory)
    parse_vault(typed.vault, after)
    facts = Facts.model_validate_json(_run(wish, "look", wish.model_dump_json()))
    refused = preparation.refusals(wish, facts)
    if refused:
        raise InvalidArgs("\n".join(refused), hint="Nothing was changed. See: man offsited-prepare")
    plan = Plan.of(wish, facts)
    out.say(shown(wish, plan))
    _confirm(out, plan, typed.confirm)
    _run(wish, "make", Order(wish=wish, plan=plan, vault_id=vault_id, directory=directory).model_dump_json(), out)
    _name(wish, store, after)
    told = {"vault": wish.vault, "target": wish.target, "uuid": wish.uuid, "label": wish.label, "device": plan.device, "size": plan.size}
    out.put({**told, "devices": [path for path, _ in plan.disks]})
    out.say(f"{wish.vault}: target {wish.target} is ready. Next: offsitectl sync {wish.vault} --target {wish.target}")
    return Exit.DONE


def _disk_target(vault: Vault, name: str) -> DiskTarget | None:
    """The target as configured, None = a new one. Raise InvalidArgs for one on another machine."""
    target = vault.find_target(name)
    if target is not None and not isinstance(target, DiskTarget):
        raise InvalidArgs(f"target {name} is on another machine", hint="Choose another name for the disk")
    return target


def _wish(typed: Typed, target: DiskTarget | None) -> Wish:
    label = (target.label if target else None) or f"{typed.vault}_{typed.target}"[:_LABEL].rstrip("_")
    return Wish(
        vault=typed.vault,
        target=typed.target,
        devices=typed.devices,
        raid=typed.raid,
        lvm=typed.lvm,
        file_system=typed.file_system,
        label=label,
        uuid=str(uuid.uuid4()),
        wipe=typed.wipe,
    )


def shown(wish: Wish, plan: Plan) -> str:
    """What will be done, for the person who confirms it."""
    layers = [f"RAID {wish.raid}" if wish.raid is not None else "", "LVM" if wish.lvm else "", wish.file_system]
    head = (
        f"Target {wish.target} of vault {wish.vault}: {', '.join(filter(None, layers))}, about {words.size(plan.size)}, label {wish.label}"
    )
    lines = [head, *(f"  {line}" for line in plan.described), *plan.notes, "Commands:"]
    lines += [f"  {' '.join(step.command)}" for step in plan.steps]
    return "\n".join(map(words.printable, lines))


def _confirm(out: Output, plan: Plan, given: Sequence[str]) -> None:
    """Have each disk confirmed by its serial number, or its size in bytes if it has none. Raise InvalidArgs for another one."""
    wanted = sorted(identity for _, identity in plan.disks)
    if given:
        if sorted(given) != wanted:
            raise InvalidArgs(
                "--confirm does not name these disks", hint=f"Nothing was changed. They are: {' '.join(wanted)}; one --confirm for each"
            )
        return
    if not sys.stdin.isatty() or out.json:
        raise click.UsageError(
            "Where nobody can be asked, confirm each disk by its serial number, or without one by its size: --confirm ID"
        )
    out.say("Everything on these disks will be lost. Confirm each by typing its serial number, or its size in bytes if it has none.")
    for path, identity in plan.disks:
        if click.prompt(f"{path}", default="", show_default=False).strip() != identity:
            raise InvalidArgs(f"that is not {path}", hint="Nothing was changed")


def _run(wish: Wish, what: str, text: str, out: Output | None = None) -> str:
    """Have the worker look or make, in a unit of its own; return what it printed. Its steps are said as they come. Raise Failed."""
    spec = unit.prepare_unit(wish.vault, wish.devices if what == "make" else ())
    settings = [word for setting in unit.as_settings(spec.properties) for word in ("-p", setting)]
    command = [_SYSTEMD_RUN, "--quiet", "--wait", "--pipe", "--collect", "--service-type=exec", f"--unit={spec.name}", *settings]
    with _input(text) as typed, _ended_with_us(spec.name):
        process = subprocess.Popen([*command, "--", *unit.PREPARER, what], stdin=typed, stdout=subprocess.PIPE, text=True)
        lines = []
        for line in process.stdout or ():
            lines.append(line)
            _say_step(out, line)
    if process.wait():
        last = json.loads(lines[-1]) if lines else {}
        more = f"The journal says more: journalctl {names.FIELD_VAULT}={wish.vault}"
        raise Failed(last.get("failed", f"{spec.name} ended with status {process.returncode}"), hint=last.get("hint") or more)
    return "".join(lines)


def _say_step(out: Output | None, line: str) -> None:
    told = json.loads(line)
    if out and "step" in told:
        out.say(f"{told['step']}/{told['of']} {told['program']}")


@contextmanager
def _ended_with_us(name: str) -> Iterator[None]:
    """Within: Ctrl-C ends the unit too, in order."""
    try:
        yield
    except KeyboardInterrupt:
        subprocess.run(["systemctl", "stop", name], check=False)
        raise


@contextmanager
def _input(text: str) -> Iterator[IO[bytes]]:
    with open(os.memfd_create("offsited-order", os.MFD_CLOEXEC), "w+b") as file:
        file.write(text.encode())
        file.seek(0)
        yield file


# --- the vault file --------------------------------------------------------------------------------------------------


def with_disk(text: str, wish: Wish, directory: str) -> str:
    """Given the text of a vault file, return it with the target's new file system, and all else as it was. Raise ConfigInvalid."""
    document = tomlkit.parse(text)
    tables = document["target"]
    if not isinstance(tables, AoT):  # target = [{...}]: TOML, but nothing that anybody writes
        raise ConfigInvalid("the targets are no [[target]] tables", hint="Write each as a table of its own: man 5 offsited-vault")
    table = next((found for found in tables if found["name"] == wish.target), None)
    if table is None:
        lines = vaultfile.target_lines(DiskSpec(wish.target, "uuid", wish.uuid, directory), "")
        return "\n".join([text.rstrip("\n"), "", "[[target]]", *lines, ""])
    _identify(table, wish)
    return tomlkit.dumps(document)


def _identify(table: Table, wish: Wish) -> None:
    """By UUID alone: a label is given twice more easily."""
    item = tomlkit.string(wish.uuid)
    if "label" in table:
        table.remove("label")
    if "uuid" in table:
        table["uuid"] = item
    else:
        table.add("uuid", item)


def _name(wish: Wish, store: Store, after: str) -> None:
    """Write the vault file and have it read. Raise Failed, with what is to be done by hand."""
    file = store.vault_file(wish.vault)
    try:
        write_whole(file, after.encode())
        with Client() as client:
            client.call(Request(names.ROOT_PATH, names.MANAGER, "Reload", "a{sv}", ({},), acts=True))
    except OSError as error:
        raise Failed(
            f"the file system is ready, but {file} cannot be written: {error.strerror}",
            hint=f'Put uuid = "{wish.uuid}" into target {wish.target} there, in place of its uuid or label',
        ) from error
