# SPDX-License-Identifier: GPL-3.0-or-later
"""Names on the command line: checked before they are used, and completed through the bus."""

from typing import Any

import click

from offsited import names


def checked_name(_ctx: click.Context, param: click.Parameter, value: Any) -> Any:  # noqa: ANN401 - click's: a name, several, or none
    """click's callback of a parameter that takes names of vaults or targets."""
    for name in [value] if isinstance(value, str) else value or ():
        if name and not names.NAME_PATTERN.fullmatch(name):
            raise click.BadParameter(f"{name!r} cannot be a name: 1 to 32 of a-z, 0-9 and _, starting with a letter", param=param)
    return value


def vaults(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Vaults that begin with what is typed."""
    return [vault for vault in _known() if vault.startswith(incomplete)]


def targets(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Targets, of the vault that was typed before, that begin with what is typed."""
    typed = ctx.params.get("vault") or next(iter(ctx.params.get("vault_and_paths") or ()), "")
    return [target for target in _known().get(str(typed), ()) if target.startswith(incomplete)]


def _known() -> dict[str, tuple[str, ...]]:
    """Vaults and their targets; nothing if the daemon does not run: a completion must not start it, and must not complain."""
    from offsited.ctl import objects
    from offsited.ctl.client import Client
    from offsited.errors import OffsitedError

    try:
        with Client() as client:
            managed = client.managed_objects(start=False)
    except OffsitedError:
        return {}
    return {vault.name: tuple(target.name for target in vault.targets) for vault in objects.vaults(managed)}
