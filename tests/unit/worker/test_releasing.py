# SPDX-License-Identifier: GPL-3.0-or-later
"""What takes apart volumes and arrays. That it does: tests/vm."""

from pathlib import Path

import pytest

from offsited.worker import releasing
from offsited.worker.releasing import main, release, take_apart

from .conftest import run


def test_each_kind_of_device_has_its_command(tmp_path: Path) -> None:
    volume, array = tmp_path / "dm-0", tmp_path / "md127"
    (volume / "dm").mkdir(parents=True)
    (volume / "dm/name").write_text("group-seed\n")
    array.mkdir()
    assert take_apart(volume) == ["dmsetup", "remove", "--retry", "--noudevsync", "group-seed"]
    assert take_apart(array) == ["mdadm", "--quiet", "--stop", "/dev/md127"]


def test_a_volume_group_that_was_seen_is_one_that_may_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else LVM would not activate it when its disks come back. The volume's name went with the volume."""
    monkeypatch.setattr(releasing, "_GROUPS_SEEN", tmp_path)
    monkeypatch.setattr(releasing, "take_apart", lambda node: ["rm", "-r", str(node)])
    for group in ("my-group", "my", "other"):
        (tmp_path / group).touch()
    volume = tmp_path / "dm-0"
    (volume / "dm").mkdir(parents=True)
    (volume / "dm/name").write_text("my--group-my--volume\n")
    (volume / "dm/uuid").write_text("LVM-x\n")
    run(release(volume))
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {"my", "other"}


def test_what_is_asked_for_wrongly_is_a_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "DEVICE" in capsys.readouterr().err
