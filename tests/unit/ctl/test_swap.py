# SPDX-License-Identifier: GPL-3.0-or-later
"""Warnings of swap that is not encrypted, on machines as /proc and /sys show them."""

import os
from pathlib import Path

import pytest

from offsited.ctl import swap

HEAD = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"


def _machine(root: Path, *swaps: str, hibernates: bool = False) -> Path:
    (root / "proc").mkdir()
    (root / "proc" / "swaps").write_text(HEAD + "".join(f"{place} file 1 0 -2\n" for place in swaps))
    (root / "sys/power").mkdir(parents=True)
    (root / "sys/power/state").write_text("freeze mem disk\n" if hibernates else "freeze mem\n")
    (root / "sys/power/disk").write_text("[platform] shutdown\n")
    return root


def _lies_on(root: Path, file: str, *layers: str) -> None:
    """A swap file, on a stack of block devices from top to bottom; each is named by its dm uuid, "" = none."""
    path = root / file.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    device = path.stat().st_dev
    place = root / "sys/dev/block" / f"{os.major(device)}:{os.minor(device)}"
    for layer in layers:
        (place / "dm").mkdir(parents=True)
        if layer:
            (place / "dm/uuid").write_text(layer + "\n")
        place = place / "slaves" / "below"


def test_no_swap_is_no_risk(tmp_path: Path) -> None:
    assert list(swap.warnings(_machine(tmp_path, hibernates=True))) == []
    assert list(swap.warnings(tmp_path / "nothing")) == []


def test_memory_that_is_compressed_is_memory(tmp_path: Path) -> None:
    assert list(swap.warnings(_machine(tmp_path, "/dev/zram0", hibernates=True))) == []


@pytest.mark.parametrize(
    ("layers", "encrypted"),
    [
        (["CRYPT-LUKS2-x"], True),
        (["LVM-x", "CRYPT-PLAIN-x"], True),
        (["LVM-x", ""], False),
        ([""], False),
        ([], False),
    ],
)
def test_what_it_lies_on_decides(tmp_path: Path, layers: list[str], encrypted: bool) -> None:  # noqa: FBT001
    _lies_on(tmp_path, "/swap file", *layers)
    told = list(swap.warnings(_machine(tmp_path, r"/swap\040file")))
    assert [sentence.startswith("swap on /swap file is not") for sentence in told] == ([] if encrypted else [True])


def test_one_disk_of_several_in_clear_is_enough(tmp_path: Path) -> None:
    _lies_on(tmp_path, "/swap", "LVM-x", "CRYPT-LUKS2-x")
    (device,) = (tmp_path / "sys/dev/block").iterdir()
    machine = _machine(tmp_path, "/swap")
    assert list(swap.warnings(machine)) == []
    (device / "slaves/other").mkdir()
    assert len(list(swap.warnings(machine))) == 1


def test_hibernation_makes_it_worse(tmp_path: Path) -> None:
    told = list(swap.warnings(_machine(tmp_path, "/dev/sda3", hibernates=True)))
    assert len(told) == 2
    assert "hibernate" in told[1]
