# SPDX-License-Identifier: GPL-3.0-or-later
"""recovery-kit: where its page goes, and its key typed back."""

import os
import pty
import select
import subprocess
import sys
from pathlib import Path

import pytest

from offsited.core.kit import key_lines
from offsited.ctl import kit
from offsited.errors import Failed

from .fake import TIMEOUT

TYPING = "from offsited.ctl import kit, output; print('typed', kit._line(output.Output(), 1, kit._from_terminal))"


def test_only_a_file_is_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "device")
    (tmp_path / "directory").mkdir()
    for name in ("device", "directory"):
        with pytest.raises(Failed, match="not a regular file"):
            kit._write(tmp_path / name, "secret")
    assert (tmp_path / "device").is_fifo()
    assert sorted(os.listdir(tmp_path)) == ["device", "directory"]


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("file")
    kit._write(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "new"
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600


def test_an_empty_line_is_typed_again() -> None:
    terminal, slave = pty.openpty()
    with subprocess.Popen(["setsid", "--ctty", "--wait", sys.executable, "-c", TYPING], stdin=slave, stdout=slave, stderr=slave) as process:
        os.close(slave)
        for line in ("", key_lines("0" * 64)[0]):
            _until(terminal, "Line 1: ")
            os.write(terminal, line.encode() + b"\n")
        _until(terminal, "typed " + "0" * 16)
        assert process.wait(TIMEOUT) == 0
    os.close(terminal)


def _until(terminal: int, text: str) -> None:
    """Wait until this is shown."""
    seen = ""
    while text not in seen:
        assert select.select([terminal], [], [], TIMEOUT)[0], seen
        seen += os.read(terminal, 4096).decode()
