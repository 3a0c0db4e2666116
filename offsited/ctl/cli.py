# SPDX-License-Identifier: GPL-3.0-or-later
"""The surface of offsitectl: commands, options, exit statuses. What a command does lies in the module of its name."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from offsited import __version__
from offsited.ctl import complete
from offsited.ctl.output import INTERRUPTED, PROGRAM, Output
from offsited.errors import Exit, OffsitedError

if TYPE_CHECKING:
    from offsited.ctl.client import Client

_Command = TypeVar("_Command", bound=Callable[..., Any])


class VaultError(Exception):
    """An error, and the vault that it is about."""

    def __init__(self, vault: str, error: OffsitedError) -> None:
        super().__init__(vault, error)
        self.vault = vault
        self.error = error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status. Every error is printed here, or by the `Output` that the command has."""
    out = Output()
    try:
        return int(cli.main(arguments, prog_name=PROGRAM, obj=out, standalone_mode=False) or Exit.DONE)
    except VaultError as trouble:
        return out.complain(trouble.error, trouble.vault)
    except OffsitedError as error:
        return out.complain(error)
    except click.ClickException as error:
        error.show()
        out.put({"error": "usage", "vault": "", "message": error.format_message(), "hint": "", "exit_status": error.exit_code})
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.FAILED


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


def target_option(text: str) -> Callable[[_Command], _Command]:
    return click.option("--target", metavar="T", callback=complete.checked_name, shell_complete=complete.targets, default="", help=text)


def passphrase_option(command: _Command) -> _Command:
    return click.option("--passphrase-file", metavar="FILE", help="Read the passphrase from FILE, - = standard input, instead of asking.")(
        command
    )


@contextlib.contextmanager
def _about(vault: str | None) -> Iterator["Client"]:
    """A connection to the daemon, for a command about one vault."""
    from offsited.ctl.client import Client

    try:
        with Client() as client:
            yield client
    except OffsitedError as error:
        raise VaultError(vault or "", error) from error


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name=PROGRAM, message="%(prog)s %(version)s")
def cli() -> None:
    """Encrypted off-site copies of this machine's snapshots.

    Manual: man offsitectl. Exit statuses: 0 done, 1 failed, 2 usage, 3 locked, 4 held, 5 target absent, 6 busy, 7 configuration
    invalid, 9 not authorised.
    """


@cli.command()
@vault_argument
@click.option(
    "--source", required=True, metavar="KIND:PATH", help="Where the newest snapshot is: lastdst:FILE, newest:PATTERN or path:DIR."
)
@click.option("--root", default="", metavar="DIR", help="The directory that the snapshot must lie below.")
@click.option(
    "--target",
    "targets",
    required=True,
    multiple=True,
    metavar="NAME=SPEC",
    help="disk:UUID=U[/DIR], disk:LABEL=L[/DIR] or ssh:USER@HOST[:PORT]/DIR. Repeat for more; the first is the default.",
)
@passphrase_option
@click.option("--import", "import_from", metavar="DIR", help="Take over the key file in DIR instead of making a new one.")
@json_option
@click.pass_obj
def init(
    out: Output, vault: str, *, source: str, root: str, targets: tuple[str, ...], passphrase_file: str | None, import_from: str | None
) -> int:
    """Make a vault: key, vault file, ssh key. Root only."""
    from offsited.ctl import init as making
    from offsited.ctl.vaultfile import parse_source, parse_target
    from offsited.store import Store

    try:
        wish = making.Wish(
            vault, parse_source(source, root), tuple(parse_target(text, vault) for text in targets), passphrase_file, import_from
        )
        return making.init(out, wish, making.Places(Store()))
    except OffsitedError as error:
        raise VaultError(vault, error) from error


@cli.command()
@click.argument("vaults", metavar="[NAME]...", nargs=-1, callback=complete.checked_name, shell_complete=complete.vaults)
@passphrase_option
@json_option
@click.pass_obj
def unlock(out: Output, vaults: tuple[str, ...], passphrase_file: str | None) -> int:
    """Enter the passphrase of the vaults named, or of all that are locked."""
    from offsited.ctl.unlock import unlock as unlock_them
    from offsited.store import Store

    with _about(None) as client:
        return unlock_them(out, client, Store(), vaults, passphrase_file)


@cli.command()
@vault_argument
@json_option
@click.pass_obj
def lock(out: Output, vault: str) -> int:
    """Make the daemon forget a vault's passphrase. A running job goes on."""
    from offsited.ctl.unlock import lock as lock_it

    with _about(vault) as client:
        return lock_it(out, client, vault)


@cli.command()
@vault_argument
@target_option("Sync to this target instead of the default one.")
@click.option("--all", "every", is_flag=True, help="Sync to every target, one after another.")
@click.option("--no-block", is_flag=True, help="Return when the job has started.")
@click.option("--allow-older", is_flag=True, help="Accept a snapshot older than the last one synced, or dated in the future.")
@click.option("--reconcile", is_flag=True, help="Compare everything with the target, not only what changed here.")
@click.option("--timed", is_flag=True, help="Asked for by a timer: print the final line alone.")
@json_option
@click.pass_obj
def sync(out: Output, vault: str, target: str, *, every: bool, no_block: bool, allow_older: bool, reconcile: bool, timed: bool) -> int:
    """Bring the newest snapshot to a target, and wait until it is there."""
    from offsited.ctl import jobs

    if every and (target or no_block):
        raise click.UsageError("--all goes with neither --target nor --no-block.")
    wish = jobs.SyncWish(allow_older=allow_older, reconcile=reconcile, timed=timed, block=not no_block)
    with _about(vault) as client:
        return jobs.sync_all(out, client, vault, wish) if every else jobs.sync(out, client, vault, target, wish)


@cli.command()
@vault_argument
@json_option
@click.pass_obj
def cancel(out: Output, vault: str) -> int:
    """End the job that writes to a vault."""
    from offsited.ctl import jobs

    with _about(vault) as client:
        return jobs.cancel(out, client, vault)


@cli.command()
@click.argument("vault", metavar="[NAME]", required=False, callback=complete.checked_name, shell_complete=complete.vaults)
@json_option
@click.pass_obj
def status(out: Output, vault: str | None) -> int:
    """Show at one glance how things are, and what waits for you."""
    from offsited.ctl.status import status as show

    with _about(vault) as client:
        return show(out, client, vault)


@cli.command()
@vault_argument
@click.option(
    "--limit", default=20, show_default=True, metavar="N", type=click.IntRange(0, 2**32 - 1), help="At most N jobs; 0 = all on record."
)
@json_option
@click.pass_obj
def history(out: Output, vault: str, limit: int) -> int:
    """Show a vault's jobs, newest first."""
    from offsited.ctl.history import history as show

    with _about(vault) as client:
        return show(out, client, vault, limit)


@cli.command()
@click.argument("vault", metavar="[NAME]", required=False, callback=complete.checked_name, shell_complete=complete.vaults)
@json_option
@click.pass_obj
def monitor(out: Output, vault: str | None) -> int:
    """Show what happens as it happens, until Ctrl-C."""
    from offsited.ctl.monitor import monitor as watch

    with _about(vault) as client:
        return watch(out, client, vault)


@cli.command("list")
@json_option
@click.pass_obj
def list_command(out: Output) -> int:
    """Print the names of the vaults."""
    from offsited.ctl.status import list_vaults

    with _about(None) as client:
        return list_vaults(out, client)


@cli.command()
@vault_argument
@click.argument("paths", metavar="[PATH]...", nargs=-1)
@click.option("--to", required=True, metavar="DIR", type=click.Path(), help="Write what is restored there; made if it does not exist.")
@target_option("Restore from this target instead of the default one.")
@click.option("--without-manifest", is_flag=True, help="Copy what is there, for when the manifest at the target is damaged.")
@json_option
@click.pass_obj
def restore(out: Output, vault: str, paths: tuple[str, ...], *, to: str, target: str, without_manifest: bool) -> int:
    """Bring back PATHs of the snapshot that a target holds, or all of it."""
    from offsited.ctl.restore import restore as bring_back

    with _about(vault) as client:
        return bring_back(out, client, vault, paths, to=to, target=target, without_manifest=without_manifest)


@cli.command("check-config")
@json_option
@click.pass_obj
def check_config(out: Output) -> int:
    """Check every configuration file, and what it names on this machine."""
    from offsited.ctl.check import check_config as check
    from offsited.store import Store

    return check(out, Store())


@cli.command("notify-test")
@json_option
@click.pass_obj
def notify_test(out: Output) -> int:
    """Try each way in which notices are sent, and say what happened. Root only."""
    from offsited.ctl.notify import notify_test as test
    from offsited.store import Store

    return test(out, Store())
