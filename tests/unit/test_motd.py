# SPDX-License-Identifier: GPL-3.0-or-later
"""What logins are told of locked vaults."""

from pathlib import Path

import pytest

from offsited.edge import motd


def test_it_is_there_while_a_vault_is_locked_and_for_everybody(tmp_path: Path) -> None:
    file = tmp_path / "offsited"
    motd.show(["home", "photos"], file)
    assert "home, photos" in file.read_text()
    motd.show(["photos"], file)
    assert "home" not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o644
    motd.show([], file)
    assert list(tmp_path.iterdir()) == []
    motd.show([], file)


def test_a_place_that_cannot_be_written_to_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    motd.show(["home"], tmp_path / "missing" / "offsited")
    assert "cannot be told" in caplog.text
