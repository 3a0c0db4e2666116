# SPDX-License-Identifier: GPL-3.0-or-later
"""What several commands take: arguments and options, a connection to the daemon, an error with the vault that it is about."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import click

from offsited.ctl import complete
from offsited.ctl.output import Output
from offsited.errors import OffsitedError

if TYPE_CHECKING:
    from offsited.ctl.client import Client

_Command = TypeVar("_Command", bound=Callable[..., Any])


class VaultError(Exception):
    """An error, and the vault that it is about."""

    def __init__(self, vault: str, error: OffsitedError) -> None:
        super().__init__(vault, error)
        self.vault = vault
        self.error = error


def _as_json(ctx: click.Context, _param: click.Parameter, value: bool) -> None:  # noqa: FBT001 - click's signature
    if value:
        ctx.ensure_object(Output).json = True


def json_option(command: _Command) -> _Command:
    """--json of every command that prints."""
    return click.option(
        "--json", is_flag=True, expose_value=False, is_eager=True, callback=_as_json, help="Print JSON, one object per line."
    )(command)


def vault_argument(command: _Command) -> _Command:
    return click.argument("vault", metavar="NAME", callback=complete.checked_name, shell_complete=complete.vaults)(command)


def target_argument(command: _Command) -> _Command:
    return click.argument("target", metavar="T", callback=complete.checked_name, shell_complete=complete.targets)(command)


def target_option(text: str) -> Callable[[_Command], _Command]:
    return click.option("--target", metavar="T", callback=complete.checked_name, shell_complete=complete.targets, default="", help=text)


class Several(click.Command):
    """A command whose options that may be repeated take several words at once, too: --devices A B is --devices A --devices B."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        repeated = {name for param in self.params if isinstance(param, click.Option) and param.multiple for name in param.opts}
        spread: list[str] = []
        option, fresh = "", False
        for word in args:
            if word.startswith("-"):
                option, fresh = (word, True) if word in repeated else ("", False)
            elif option and not fresh:
                spread.append(option)
            else:
                fresh = False
            spread.append(word)
        return super().parse_args(ctx, spread)


def passphrase_option(command: _Command) -> _Command:
    return click.option("--passphrase-file", metavar="FILE", help="Read the passphrase from FILE, - = standard input, instead of asking.")(
        command
    )


@contextlib.contextmanager
def blamed_on(vault: str) -> Iterator[None]:
    """Within, an error is one about this vault."""
    try:
        yield
    except OffsitedError as error:
        raise VaultError(vault, error) from error


@contextlib.contextmanager
def about(vault: str | None) -> Iterator["Client"]:
    """A connection to the daemon, for a command about one vault."""
    from offsited.ctl.client import Client

    with blamed_on(vault or ""), Client() as client:
        yield client
