# SPDX-License-Identifier: GPL-3.0-or-later
"""The surface of offsitectl: commands, options, exit statuses. What a command does lies in the module of its name."""

import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from offsited import __version__
from offsited.core.verification import Level
from offsited.ctl import complete
from offsited.ctl.arguments import VaultError, about, blamed_on, json_option, passphrase_option, target_option, vault_argument
from offsited.ctl.output import INTERRUPTED, PROGRAM, Output
from offsited.ctl.target import target_group
from offsited.errors import Exit, OffsitedError


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


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name=PROGRAM, message="%(prog)s %(version)s")
def cli() -> None:
    """Encrypted off-site copies of this machine's snapshots.

    Manual: man offsitectl. Exit statuses: 0 done, 1 failed, 2 usage, 3 locked, 4 held, 5 target absent, 6 busy, 7 configuration
    invalid, 8 verification found differences, 9 not authorised.
    """


cli.add_command(target_group)


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

    with blamed_on(vault):
        wish = making.Wish(
            vault, parse_source(source, root), tuple(parse_target(text, vault) for text in targets), passphrase_file, import_from
        )
        return making.init(out, wish, making.Places(Store()))


@cli.command()
@vault_argument
@click.option("--target", "spec", required=True, metavar="NAME=SPEC", help="As for init: what the target is called here, and where it is.")
@click.option("--source", required=True, metavar="KIND:PATH", help="As for init: where the newest snapshot will be found.")
@click.option("--root", default="", metavar="DIR", help="The directory that the snapshot must lie below.")
@passphrase_option
@click.option("--identity", metavar="FILE", default="", help="With ssh:...: a key that the remote knows; else one is made.")
@click.option("--fake-super", is_flag=True, help="With ssh:...: the account there is not root's and keeps owners by fake-super.")
@json_option
@click.pass_obj
def attach(
    out: Output, vault: str, *, spec: str, source: str, root: str, passphrase_file: str | None, identity: str, fake_super: bool
) -> int:
    """Rebuild a vault from a target, on a new machine. Root only."""
    from offsited.ctl import attach as attaching
    from offsited.ctl.bare import BareWish
    from offsited.ctl.init import Places
    from offsited.ctl.vaultfile import parse_source, parse_target
    from offsited.store import Store

    with blamed_on(vault):
        target = parse_target(spec, vault)
        wish = BareWish(spec, identity, fake_super, passphrase_file)
        return attaching.attach(out, attaching.AttachWish(vault, parse_source(source, root), target, wish), Places(Store()))


@cli.command()
@click.argument("vaults", metavar="[NAME]...", nargs=-1, callback=complete.checked_name, shell_complete=complete.vaults)
@passphrase_option
@click.option(
    "--enroll", is_flag=True, help="Also encrypt it for this machine, which then unlocks the vault by itself after a boot. Root only."
)
@click.option(
    "--ask-password", is_flag=True, help="Ask through systemd's password agents, until the right answer comes. At boot a unit does."
)
@json_option
@click.pass_obj
def unlock(out: Output, vaults: tuple[str, ...], *, passphrase_file: str | None, enroll: bool, ask_password: bool) -> int:
    """Enter the passphrase of the vaults named, or of all that are locked."""
    from offsited.ctl.unlock import unlock as unlock_them

    if ask_password and (passphrase_file is not None or enroll):
        raise click.UsageError("--ask-password goes with neither --passphrase-file nor --enroll.")
    if enroll:
        return _enroll(out, vaults, passphrase_file)
    with about(None) as client:
        return unlock_them(out, client, vaults, passphrase_file, agents=ask_password)


def _enroll(out: Output, vaults: tuple[str, ...], passphrase_file: str | None) -> int:
    from offsited.ctl.enroll import enroll
    from offsited.store import Store

    if len(vaults) != 1:
        raise click.UsageError("--enroll takes the name of one vault.")
    with about(vaults[0]) as client:
        return enroll(out, client, Store(), vaults[0], passphrase_file)


@cli.command()
@vault_argument
@json_option
@click.pass_obj
def lock(out: Output, vault: str) -> int:
    """Make the daemon forget a vault's passphrase. A running job goes on."""
    from offsited.ctl.unlock import lock as lock_it

    with about(vault) as client:
        return lock_it(out, client, vault)


@cli.command()
@vault_argument
@target_option("Sync to this target instead of the default one.")
@click.option("--all", "every", is_flag=True, help="Sync to every target, one after another.")
@click.option("--no-block", is_flag=True, help="Return when the job has started.")
@click.option("--allow-older", is_flag=True, help="Accept a snapshot older than the last one synced, or dated in the future.")
@click.option("--reconcile", is_flag=True, help="Compare everything with the target, not only what changed here.")
@click.option("--dry-run", is_flag=True, help="Only say what would be sent, deleted and held. The target is not asked.")
@click.option("--timed", is_flag=True, help="Asked for by a timer: print the final line alone.")
@json_option
@click.pass_obj
def sync(
    out: Output,
    vault: str,
    target: str,
    *,
    every: bool,
    no_block: bool,
    allow_older: bool,
    reconcile: bool,
    dry_run: bool,
    timed: bool,
) -> int:
    """Bring the newest snapshot to a target, and wait until it is there."""
    from offsited.ctl import jobs

    if every and (target or no_block):
        raise click.UsageError("--all goes with neither --target nor --no-block.")
    if dry_run and reconcile:
        raise click.UsageError("--dry-run does not ask the target, so --reconcile does not go with it.")
    wish = jobs.SyncWish(allow_older=allow_older, reconcile=reconcile, timed=timed, dry_run=dry_run, block=not no_block)
    with about(vault) as client:
        return jobs.sync_all(out, client, vault, wish) if every else jobs.sync(out, client, vault, target, wish)


@cli.command()
@vault_argument
@target_option("Of this target instead of the default one.")
@json_option
@click.pass_obj
def diff(out: Output, vault: str, target: str) -> int:
    """Show in clear names what a sync would do, and what of it a limit would hold."""
    from offsited.ctl.diff import diff as show

    with about(vault) as client:
        return show(out, client, vault, target)


@cli.command()
@vault_argument
@target_option("Of this target instead of the default one.")
@click.option("--plan", default="", metavar="ID", help="Release just this, without asking, if it is still what is held.")
@json_option
@click.pass_obj
def approve(out: Output, vault: str, target: str, plan: str) -> int:
    """Release deletions and changes that a limit holds, and sync."""
    from offsited.ctl.diff import approve as release

    with about(vault) as client:
        return release(out, client, vault, target, plan)


@cli.command()
@vault_argument
@json_option
@click.pass_obj
def cancel(out: Output, vault: str) -> int:
    """End the job that writes to a vault."""
    from offsited.ctl import jobs

    with about(vault) as client:
        return jobs.cancel(out, client, vault)


@cli.command()
@click.argument("vault", metavar="[NAME]", required=False, callback=complete.checked_name, shell_complete=complete.vaults)
@json_option
@click.pass_obj
def status(out: Output, vault: str | None) -> int:
    """Show at one glance how things are, and what waits for you."""
    from offsited.ctl.status import status as show

    with about(vault) as client:
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

    with about(vault) as client:
        return show(out, client, vault, limit)


@cli.command()
@click.argument("vault", metavar="[NAME]", required=False, callback=complete.checked_name, shell_complete=complete.vaults)
@json_option
@click.pass_obj
def monitor(out: Output, vault: str | None) -> int:
    """Show what happens as it happens, until Ctrl-C."""
    from offsited.ctl.monitor import monitor as watch

    with about(vault) as client:
        return watch(out, client, vault)


@cli.command("list")
@json_option
@click.pass_obj
def list_command(out: Output) -> int:
    """Print the names of the vaults."""
    from offsited.ctl.status import list_vaults

    with about(None) as client:
        return list_vaults(out, client)


@cli.command()
@click.argument("vault_and_paths", metavar="[NAME] [PATH]...", nargs=-1, shell_complete=complete.vaults)
@click.option("--to", required=True, metavar="DIR", type=click.Path(), help="Write what is restored there; made if it does not exist.")
@target_option("Restore from this target instead of the default one.")
@click.option("--without-manifest", is_flag=True, help="Copy what is there, for when the manifest at the target is damaged.")
@click.option(
    "--from", "spec", metavar="SPEC", help="On a bare machine: from disk:UUID=U/DIR, disk:LABEL=L/DIR or ssh:USER@HOST[:PORT]/DIR."
)
@passphrase_option
@click.option(
    "--master-key", metavar="FILE", is_flag=False, flag_value="ask", help="With --from: the master key instead, of FILE, - or typed."
)
@click.option("--identity", metavar="FILE", default="", help="With --from ssh:...: the ssh key; without it root's own.")
@click.option("--fake-super", is_flag=True, help="With --from ssh:...: the account there is not root's and kept owners by fake-super.")
@json_option
@click.pass_context
def restore(ctx: click.Context, /, vault_and_paths: tuple[str, ...], *, to: str, target: str, without_manifest: bool, **bare: Any) -> int:  # noqa: ANN401 - of click
    """Bring back PATHs of the snapshot that a target holds, or all of it."""
    from offsited.ctl.bare import BareWish
    from offsited.ctl.restore import restore as bring_back
    from offsited.ctl.restore import restore_from

    out: Output = ctx.obj
    if bare["spec"] is not None:
        if target:
            raise click.UsageError("--from goes without --target: it names the target itself.")
        wish = BareWish(bare["spec"], bare["identity"], bare["fake_super"], bare["passphrase_file"], bare["master_key"])
        return restore_from(out, wish, vault_and_paths, to=to, without_manifest=without_manifest)
    if given := [name for name in ("passphrase_file", "master_key", "identity", "fake_super") if bare[name]]:
        raise click.UsageError(f"--{given[0].replace('_', '-')} goes with --from.")
    if not vault_and_paths:
        raise click.UsageError("Which vault? offsitectl restore NAME, or --from SPEC where none is configured.")
    vault, *paths = vault_and_paths
    complete.checked_name(ctx, next(param for param in ctx.command.params if param.name == "vault_and_paths"), vault)
    with about(vault) as client:
        return bring_back(out, client, vault, paths, to=to, target=target, without_manifest=without_manifest)


@cli.command()
@vault_argument
@target_option("Verify this target instead of the default one.")
@click.option("--level", type=click.Choice([level.value for level in Level]), default=None, help="How deep to look; data reads every byte.")
@click.option("--sample", metavar="N", type=click.IntRange(1, 2**32 - 1), default=None, help="Of the data, N files by chance.")
@click.option("--repair", is_flag=True, help="Sync afterwards, and send again what was found.")
@click.option("--timed", is_flag=True, help="Asked for by a timer: print the final line alone, and read what verify_days makes due.")
@json_option
@click.pass_obj
def verify(out: Output, vault: str, *, target: str, level: str | None, sample: int | None, repair: bool, timed: bool) -> int:
    """Compare what a target holds with its manifest, and name what differs."""
    from offsited.ctl import verify as verifying

    if sample is not None and level not in {None, Level.DATA}:
        raise click.UsageError("--sample goes with --level data.")
    chosen = level or (Level.DATA.value if sample else "" if timed else Level.METADATA.value)
    wish = verifying.VerifyWish(chosen, sample or 0, repair=repair, timed=timed)
    with about(vault) as client:
        return verifying.verify(out, client, vault, target, wish)


@cli.command("restore-test")
@vault_argument
@target_option("Test this target instead of the default one.")
@click.option("--timed", is_flag=True, help="Asked for by a timer: print the final line alone.")
@json_option
@click.pass_obj
def restore_test(out: Output, vault: str, *, target: str, timed: bool) -> int:
    """Restore a part of what a target holds, and compare it, for proof."""
    from offsited.ctl import verify as verifying

    with about(vault) as client:
        return verifying.restore_test(out, client, vault, target, timed=timed)


@cli.command()
@vault_argument
@click.argument("directory", metavar="DIR", type=click.Path())
@target_option("Show this target instead of the default one.")
@json_option
@click.pass_obj
def mount(out: Output, vault: str, directory: str, *, target: str) -> int:
    """Show what a target holds at an empty directory, read-only, for browsing."""
    from offsited.ctl import mounting

    with about(vault) as client:
        return mounting.mount(out, client, vault, target, directory)


@cli.command()
@vault_argument
@json_option
@click.pass_obj
def umount(out: Output, vault: str) -> int:
    """Take away what `mount` shows of a vault."""
    from offsited.ctl import mounting

    with about(vault) as client:
        return mounting.umount(out, client, vault)


@cli.command("change-passphrase")
@vault_argument
@passphrase_option
@click.option(
    "--new-passphrase-file", metavar="FILE", help="Read the new passphrase from FILE, - = standard input, instead of asking twice."
)
@click.option("--no-sync", is_flag=True, help="Do not bring it to the targets now; each gets it with its next sync.")
@json_option
@click.pass_obj
def change_passphrase(out: Output, vault: str, *, passphrase_file: str | None, new_passphrase_file: str | None, no_sync: bool) -> int:
    """Give a vault another passphrase. Root only."""
    from offsited.ctl import rekey
    from offsited.store import Store

    if passphrase_file == new_passphrase_file and passphrase_file is not None:
        raise click.UsageError("Both passphrases cannot come from the same file.")
    with about(vault) as client:
        wish = rekey.Wish(vault, passphrase_file, new_passphrase_file, sync=not no_sync)
        return rekey.change_passphrase(out, client, Store(), wish)


@cli.command("restore-key")
@vault_argument
@click.option(
    "--from", "copy", required=True, metavar="FILE", type=click.Path(), help="A target's copy of the key file: current/gocryptfs.conf."
)
@passphrase_option
@json_option
@click.pass_obj
def restore_key(out: Output, vault: str, *, copy: str, passphrase_file: str | None) -> int:
    """Take a damaged key file back from a target's copy. Root only."""
    from offsited.ctl.restore_key import restore_key as take_back
    from offsited.store import Store

    with about(vault) as client:
        return take_back(out, client, Store(), vault, copy=copy, file=passphrase_file)


@cli.command("recovery-kit")
@vault_argument
@click.option(
    "--output", metavar="FILE", type=click.Path(), help="Write it to FILE, as HTML if that ends in .html, instead of printing it."
)
@click.option("--confirm", is_flag=True, help="Type the key of a printed kit back: does it open what a target holds?")
@passphrase_option
@json_option
@click.pass_obj
def recovery_kit(out: Output, vault: str, *, output: str | None, confirm: bool, passphrase_file: str | None) -> int:
    """Make the page that restores without this machine. Root only."""
    from offsited.ctl import kit
    from offsited.store import Store

    if confirm and (output or passphrase_file):
        raise click.UsageError("--confirm goes with neither --output nor --passphrase-file.")
    with about(vault) as client:
        if confirm:
            return kit.confirm(out, Store(), vault)
        return kit.make(out, client, Store(), vault, output=output, file=passphrase_file)


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
