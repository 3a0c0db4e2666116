# SPDX-License-Identifier: GPL-3.0-or-later
"""check-config on [notify]: what would keep notices from being sent is found before one is due."""

from pathlib import Path

import pytest

from offsited import names
from offsited.ctl.check import examine
from offsited.store import Store


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('mail = ["root"]', {("warning", "notify.mail")}),
        ('prometheus = "/no/such/directory/x.prom"', {("error", "notify.prometheus")}),
        ('mail = ["-oX root"]', {("error", "notify.mail.0")}),
        ('ping = "ftp://example.org"', {("error", "notify.ping")}),
        ('stale_after = "tomorrow"', {("error", "notify.stale_after")}),
        ('ping = "https://example.org/{vault}"\nstale_after = "2d"', set()),
    ],
)
def test_findings(text: str, found: set[tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "SENDMAIL", tmp_path / "none")
    settings = tmp_path / names.SETTINGS_FILE
    settings.write_text(f"[notify]\n{text}\n")
    settings.chmod(0o600)
    assert {
        (finding.severity.value, finding.key) for finding in examine(Store(tmp_path, tmp_path)) if finding.key.startswith("notify")
    } == found
