# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands `offsitectl target ...`."""

from typing import Any

import click

from offsited.ctl import complete
from offsited.ctl.arguments import Several, about, blamed_on, json_option, target_argument, vault_argument
from offsited.ctl.output import Output


@click.group("target")
@json_option
def target_group() -> None:
    """What is done with one target of a vault."""


@target_group.command()
@vault_argument
@target_argument
@json_option
@click.pass_obj
def seal(out: Output, vault: str, target: str) -> int:
    """Make a disk ready to travel: a last sync, a verification, unmount. Then say how it is used there."""
    from offsited.ctl.seeds import seal as close
    from offsited.store import Store

    with about(vault) as client:
        return close(out, client, Store(), vault, target)


@target_group.command()
@vault_argument
@target_argument
@click.option(
    "--from", "seed", metavar="T2", default="", callback=complete.checked_name, shell_complete=complete.targets,
    help="What lies there is the disk T2, filled and sealed here: compare it, send nothing.",
)  # fmt: skip
@json_option
@click.pass_obj
def adopt(out: Output, vault: str, target: str, seed: str) -> int:
    """Take over what lies at a target: the seed T2, a bare gocryptfs mirror, or a commit that this machine did not make."""
    from offsited.ctl import jobs, seeds

    with about(vault) as client:
        if seed:
            return seeds.adopt(out, client, vault, target, seed)
        return jobs.sync(out, client, vault, target, jobs.SyncWish(reconcile=True, adopt=True))


@target_group.command()
@vault_argument
@target_argument
@click.option("--fingerprint", "fingerprints", multiple=True, metavar="SHA256:...", help="Pin this key without asking, and no other.")
@json_option
@click.pass_obj
def trust(out: Output, vault: str, target: str, *, fingerprints: tuple[str, ...]) -> int:
    """Pin the key of an ssh target's host, after its fingerprint was compared. Root only."""
    from offsited.ctl.trust import trust as pin
    from offsited.store import Store

    with blamed_on(vault):
        return pin(out, Store(), vault, target, fingerprints)


@target_group.command(cls=Several)
@vault_argument
@target_argument
@click.option("--devices", metavar="DEV...", multiple=True, required=True, type=click.Path(readable=False), help="The disks.")
@click.option("--raid", type=click.Choice(["0", "1", "5", "6", "10"]), default=None, help="Join them to an array of this level.")
@click.option("--lvm", is_flag=True, help="One logical volume over everything, that can grow.")
@click.option("--fs", "file_system", type=click.Choice(["xfs", "ext4", "btrfs"]), default="xfs", show_default=True, help="The file system.")
@click.option(
    "--wipe", metavar="DEV...", multiple=True, type=click.Path(readable=False), help="What is on these of the disks may be destroyed."
)
@click.option(
    "--confirm", metavar="ID...", multiple=True, help="Confirm each disk by serial number, or by its size, instead of being asked."
)
@json_option
@click.pass_obj
def prepare(out: Output, /, vault: str, target: str, *, raid: str | None, **typed: Any) -> int:  # noqa: ANN401 - of click
    """Make RAID, LVM and a file system on empty disks for a target. Root only."""
    from offsited.ctl.prepare import Typed
    from offsited.ctl.prepare import prepare as make
    from offsited.store import Store

    with blamed_on(vault):
        return make(out, Store(), Typed(vault, target, raid=None if raid is None else int(raid), **typed))
