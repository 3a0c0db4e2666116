# SPDX-License-Identifier: GPL-3.0-or-later
"""status and list: what the daemon knows, gathered in few calls."""

import time

from offsited import names
from offsited.core import words
from offsited.ctl import objects
from offsited.ctl.client import Client, Reply, Request
from offsited.ctl.jobs import vault_path
from offsited.ctl.objects import JobEnd, Vault
from offsited.ctl.output import Output
from offsited.ctl.page import Situation, page
from offsited.ctl.timers import next_runs
from offsited.errors import Exit, OffsitedError


def status(out: Output, client: Client, vault: str | None) -> int:
    """Show one vault or all. Raise NoSuchVault or ConfigInvalid."""
    if vault is not None:
        vault_path(client, vault)
    manager = client.get(names.ROOT_PATH, names.MANAGER)
    invalid = list(manager.get("InvalidVaults", [])) if vault is None else []
    situations = gather(client, [found for found in objects.vaults(client.managed_objects()) if vault in {None, found.name}])
    out.put({"version": manager.get("Version", ""), "vaults": [situation.as_json() for situation in situations], "invalid": invalid})
    out.say("\n".join(page(situations, invalid, time.time_ns() // 1000)))
    return Exit.DONE


def list_vaults(out: Output, client: Client) -> int:
    """Print the vaults' names, one a line."""
    found = [vault.name for vault in objects.vaults(client.managed_objects())]
    out.put({"vaults": found, "invalid": list(client.get(names.ROOT_PATH, names.MANAGER).get("InvalidVaults", []))})
    for name in found:
        out.say(words.printable(name))
    return Exit.DONE


def gather(client: Client, vaults: list[Vault]) -> list[Situation]:
    """Join the vaults with their last jobs and their timers."""
    runs = next_runs(client, [vault.name for vault in vaults])
    replies = client.call_all([Request(names.ROOT_PATH, names.MANAGER, "GetOutcome", "u", (vault.last_job,)) for vault in vaults])
    return [Situation(vault, _last(vault, reply), runs[vault.name]) for vault, reply in zip(vaults, replies, strict=True)]


def _last(vault: Vault, reply: Reply | OffsitedError) -> JobEnd | None:
    return JobEnd.of(vault.last_job, reply.body[0]) if vault.last_job and isinstance(reply, Reply) else None
