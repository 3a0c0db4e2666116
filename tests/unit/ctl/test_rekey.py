# SPDX-License-Identifier: GPL-3.0-or-later
"""change-passphrase: the key file's part of it, with the real gocryptfs."""

import subprocess
from pathlib import Path

import pytest

from offsited.core import gocryptfs
from offsited.core.config import Tools
from offsited.ctl import keyfile, passphrase, rekey
from offsited.ctl.passphrase import Passphrase
from offsited.errors import WrongPassphrase
from offsited.store import KeyRecord, VaultFiles

TOOLS = Tools()


@pytest.fixture
def files(tmp_path: Path) -> VaultFiles:
    """Of a vault whose passphrase is "old"."""
    files = VaultFiles(tmp_path / "vault")
    files.create()
    command = gocryptfs.init_command(TOOLS.gocryptfs, files.plain, weak=True)
    subprocess.run(command, input=b"old", check=True, capture_output=True)
    files.write_key_record(KeyRecord(sha256=files.key_digest()))
    return files


def _secret(tmp_path: Path, text: str) -> Passphrase:
    file = tmp_path / f"is-{text}"
    file.write_text(text)
    return passphrase.from_file(str(file))


def _change(files: VaultFiles, tmp_path: Path) -> None:
    with _secret(tmp_path, "old") as old, _secret(tmp_path, "new") as new:
        key = keyfile.master_key(TOOLS, files.key_file, old)
        rekey._replace(files, TOOLS, old, new, key)
        assert keyfile.master_key(TOOLS, files.key_file, new) == key
        with pytest.raises(WrongPassphrase):
            keyfile.master_key(TOOLS, files.key_file, old)


def test_the_key_file_is_another_and_known_as_the_vaults(files: VaultFiles, tmp_path: Path) -> None:
    _change(files, tmp_path)
    assert files.key_file_is_right()
    assert files.key_file.stat().st_mode & 0o777 == 0o400
    assert [entry.name for entry in files.state.glob("key*")] == ["key.json"]


def test_what_an_interrupted_change_left_is_no_obstacle(files: VaultFiles, tmp_path: Path) -> None:
    """gocryptfs was killed before its last step, and offsitectl with it."""
    with keyfile.work_directory(files) as work:
        pass
    work.mkdir()
    (work / f"{files.key_file.name}.tmp").touch()
    _change(files, tmp_path)
