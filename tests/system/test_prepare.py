# SPDX-License-Identifier: GPL-3.0-or-later
"""target prepare on single disks: what it makes, and what it refuses to touch. RAID and LVM are in tests/vm."""

import re
import secrets
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from .asking import Terminal
from .conftest import DISKS
from .disks import SIZE
from .machine import Ended, must, offsitectl, run
from .vaults import OnDisk


class Blank:
    """A disk with nothing on it. A loop device has no serial number: its size is what is confirmed."""

    def __init__(self, size: int = SIZE) -> None:
        self.image = DISKS / f"{secrets.token_hex(4)}.img"
        with self.image.open("wb") as file:
            file.truncate(size)
        self.device = must("losetup", "--find", "--show", self.image).strip()
        self.size = size

    def first(self) -> bytes:
        with Path(self.device).open("rb") as file:
            return file.read(1 << 20)


@pytest.fixture
def blank() -> Iterator[Blank]:
    made = Blank()
    yield made
    must("losetup", "--detach", made.device)
    made.image.unlink()


def prepare(home: OnDisk, target: str, blank: Blank, *options: str | Path, confirm: object = None) -> Ended:
    identity = str(blank.size if confirm is None else confirm)
    return offsitectl("target", "prepare", home.vault.name, target, "--devices", blank.device, *options, "--confirm", identity, "--json")


@pytest.mark.parametrize("file_system", ["xfs", "ext4", "btrfs"])
def test_a_disk_becomes_a_new_target(home: OnDisk, blank: Blank, tmp_path: Path, file_system: str) -> None:
    before = home.vault.file.read_text()
    ended = prepare(home, "seed", blank, "--fs", file_system)
    assert ended.status == 0, ended.told
    told = ended.json
    assert (told["target"], told["device"], told["devices"]) == ("seed", blank.device, [blank.device])
    found = must("blkid", "-o", "value", "-s", "TYPE", "-s", "UUID", "-s", "LABEL", blank.device).split()
    assert set(found) >= {file_system, told["uuid"], told["label"]}
    after = home.vault.file.read_text()
    assert after.startswith(before.rstrip())
    assert f'uuid = "{told["uuid"]}"' in after
    assert run("offsitectl", "check-config").status == 0
    assert home.vault.synced("--target", "seed")["sent_entries"] == 3
    assert len(home.vault.restored(tmp_path / "back", target="seed")) == 4


def test_a_new_disk_takes_the_place_of_a_target_that_was_synced(home: OnDisk, blank: Blank) -> None:
    """Its directory is kept, its UUID goes into the vault file, and everything is sent again."""
    home.vault.synced()
    ended = prepare(home, "disk", blank)
    assert ended.status == 0, ended.told
    text = home.vault.file.read_text()
    assert home.disk.uuid not in text
    assert text.count("[[target]]") == 1
    told = home.vault.synced()
    assert told["sent_entries"] == 3


def test_the_marker_says_whose_it_is(home: OnDisk, blank: Blank, tmp_path: Path) -> None:
    assert prepare(home, "seed", blank).status == 0
    must("mount", blank.device, tmp_path)
    marker = (tmp_path / home.vault.name / "offsited.json").read_text()
    must("umount", tmp_path)
    assert re.search(r'"vault": "[0-9a-f-]{36}"', marker)


PARTITIONS = b"".join((bytes(446), struct.pack("<B3sB3sII", 0, b"\0\0\0", 0x83, b"\0\0\0", 2048, 2048), bytes(48), b"\x55\xaa"))
"""A partition table with one partition of 1 MiB."""


@pytest.mark.parametrize("content", ["xfs", "swap", "dos"])
def test_what_is_on_a_disk_is_destroyed_only_if_named(home: OnDisk, blank: Blank, content: str) -> None:
    if content == "dos":
        Path(blank.device).write_bytes(PARTITIONS)
    else:
        must(*{"xfs": ("mkfs.xfs", "-q"), "swap": ("mkswap", "-q")}[content], blank.device)
    before = blank.first()
    ended = prepare(home, "seed", blank)
    assert (ended.status, ended.json["error"]) == (2, "invalid-args")
    assert content in ended.told
    assert f"--wipe {blank.device}" in ended.told
    assert blank.first() == before
    assert "seed" not in home.vault.file.read_text()
    ended = prepare(home, "seed", blank, "--wipe", blank.device)
    assert ended.status == 0, ended.told
    home.vault.synced("--target", "seed")


def test_what_is_in_use_is_never_touched(home: OnDisk, blank: Blank, tmp_path: Path) -> None:
    must("mkfs.ext4", "-q", blank.device)
    must("mount", blank.device, tmp_path)
    ended = prepare(home, "seed", blank, "--wipe", blank.device)
    must("umount", tmp_path)
    assert ended.status == 2
    assert f"it is in use: {tmp_path}" in ended.told


@pytest.mark.parametrize("given", ["1", "no-such-serial"])
def test_another_disk_is_confirmed(home: OnDisk, blank: Blank, given: str) -> None:
    ended = prepare(home, "seed", blank, confirm=given)
    assert ended.status == 2
    assert str(blank.size) in ended.told
    assert not blank.first().strip(b"\0")


def test_nobody_is_asked_where_nobody_can_answer(home: OnDisk, blank: Blank) -> None:
    ended = offsitectl("target", "prepare", home.vault.name, "seed", "--devices", blank.device)
    assert ended.status == 2
    assert "--confirm" in ended.told
    assert not blank.first().strip(b"\0")


@pytest.mark.parametrize("right", [True, False])
def test_a_person_types_what_the_disk_is_known_by(home: OnDisk, blank: Blank, *, right: bool) -> None:
    terminal = Terminal("offsitectl", "target", "prepare", home.vault.name, "seed", "--devices", blank.device)
    plan = terminal.until("Confirm each by typing")
    assert f"({blank.size} bytes)  no serial number  empty" in plan
    assert f"mkfs.xfs -q -f -L {home.vault.name}" in plan
    terminal.until(f"{blank.device}: ")
    terminal.type(str(blank.size) if right else "yes")
    if right:
        terminal.until("target seed is ready")
    assert terminal.status() == (0 if right else 2)
    assert bool(blank.first().strip(b"\0")) is right
    terminal.leave()


def test_it_is_roots_alone(home: OnDisk, blank: Blank, user: object) -> None:
    ended = offsitectl("target", "prepare", home.vault.name, "seed", "--devices", blank.device, user="alice")
    assert ended.status == 9


def test_what_is_missing_is_said_before_anything_happens(home: OnDisk, blank: Blank) -> None:
    ended = prepare(home, "seed", blank, "--lvm")
    assert ended.status == 2
    assert "apt install lvm2" in ended.told
