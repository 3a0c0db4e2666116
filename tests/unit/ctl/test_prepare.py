# SPDX-License-Identifier: GPL-3.0-or-later
"""The vault file after target prepare, and options that take several words."""

import click
import pytest

from offsited.core.config import parse_vault
from offsited.core.preparation import Wish
from offsited.ctl.cli import cli
from offsited.ctl.prepare import with_disk
from offsited.ctl.vaultfile import DiskSpec, SourceSpec, SshSpec, vault_text

UUID = "85ca06b8-5ed4-4492-ae64-abc2946009eb"
WISH = Wish(vault="home", target="seed", devices=("/dev/a",), label="SEED", uuid=UUID)
SSH = SshSpec("vps", "b@h", 22, "/srv")


def text(*targets: DiskSpec | SshSpec) -> str:
    return vault_text("home", SourceSpec("path", "/srv"), targets, "/k")


@pytest.mark.parametrize("key", ["uuid", "label"])
def test_a_targets_disk_is_replaced_and_all_else_stays(key: str) -> None:
    before = text(SSH, DiskSpec("seed", key, "ABCD", "deep/dir"), DiskSpec("other", "label", "OTHER", "home"))
    after = with_disk(before, WISH, "deep/dir")
    gone = [line for line in before.splitlines() if line not in after.splitlines()]
    new = [line for line in after.splitlines() if line not in before.splitlines()]
    assert (gone, new) == ([f'{key} = "ABCD"'], [f'uuid = "{UUID}"'])
    assert parse_vault("home", after).find_target("seed")


def test_a_new_target_is_added_at_the_end() -> None:
    before = text(SSH)
    after = with_disk(before, WISH, "home")
    assert after.startswith(before)
    added = f'\n[[target]]\nname = "seed"\nkind = "disk"\nuuid = "{UUID}"\ndirectory = "home"\n'
    new = "".join(line for line in after[len(before) :].splitlines(keepends=True) if not line.startswith("#"))
    assert new == added
    assert [target.name for target in parse_vault("home", after).target] == ["vps", "seed"]


def test_options_take_several_words() -> None:
    group = cli.commands["target"]
    assert isinstance(group, click.Group)
    command = group.commands["prepare"]
    words = ["home", "seed", "--devices", "/dev/a", "/dev/b", "--wipe", "/dev/a", "--lvm", "--devices=/dev/c", "--raid", "5"]
    typed = command.make_context("prepare", words).params
    assert typed["devices"] == ("/dev/a", "/dev/b", "/dev/c")
    assert (typed["wipe"], typed["lvm"], typed["raid"]) == (("/dev/a",), True, "5")
