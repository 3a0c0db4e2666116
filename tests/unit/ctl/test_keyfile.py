# SPDX-License-Identifier: GPL-3.0-or-later
"""Where key files are worked on."""

import shutil
from pathlib import Path

from offsited.ctl.keyfile import work_directory
from offsited.store import Store


def test_there_is_a_place_to_work_though_the_vault_s_state_is_gone(tmp_path: Path) -> None:
    """A key file is to be taken back when much else may be lost."""
    files = Store(tmp_path / "etc", tmp_path / "var").vault_files("home")
    files.create()
    shutil.rmtree(files.state)
    with work_directory(files) as work:
        (work / "left").touch()
    assert not work.exists()
