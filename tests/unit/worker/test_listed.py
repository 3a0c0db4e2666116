# SPDX-License-Identifier: GPL-3.0-or-later
"""Meeting what lies at a host's mirror, with the real rsync on this machine, and how a broken connection is told from what is there."""

import functools
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from offsited.core import config
from offsited.core.manifest import Row
from offsited.core.rsync import Place
from offsited.core.verification import Difference, What
from offsited.worker import listed
from offsited.worker.findings import Findings
from offsited.worker.inventory import Inventory
from offsited.worker.listed import Listed
from offsited.worker.transfer import Transfers, patiently

from .conftest import run

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="setpriv can drop capabilities only for root")

BREAKS_OFF = """#!/bin/sh
[ -e "$0.once" ] && exec rsync "$@"
touch "$0.once"
rsync "$@"
exit 30
"""


def test_a_listing_that_broke_off_counts_nothing_twice(transfers: Transfers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    current = tmp_path / "target" / "current"
    current.mkdir(parents=True)
    for name in ("kept", "changed", "extra"):
        (current / name).touch(mode=0o600)
        os.utime(current / name, (1, 1))
    tool = tmp_path / "rsync"
    tool.write_text(BREAKS_OFF)
    tool.chmod(0o700)
    transfers = replace(transfers, tools=config.Tools(rsync=str(tool)))
    monkeypatch.setattr(listed, "patiently", functools.partial(patiently, pauses=(0.0,)))
    job: Any = SimpleNamespace(target=None, tools=transfers.tools, runtime=transfers.runtime)
    reached: Any = SimpleNamespace(place=Place(str(tmp_path / "target"), str(tmp_path / "target")))
    findings = Findings(tmp_path / "findings")
    before = Difference(b"before", What.CONTENT)
    findings.note([before])
    with Inventory.made(tmp_path / "inventory", exact=False) as inventory:
        modes = {"kept": 0o600, "changed": 0o644}
        inventory.expect((name, Row(name.encode(), "f", mode, os.getuid(), os.getgid(), mtime=10**9)) for name, mode in modes.items())
        listing = Listed(inventory, findings, lambda _: None)
        run(listing.of(job, reached, transfers))
        assert Path(f"{tool}.once").exists()
        assert inventory.entries == 2
        assert listing.extra == ["extra"]
        assert [Difference.decode(line) for line in findings.file.open("rb")] == [
            before, Difference(b"changed", What.MODE, "0600 instead of 0644")
        ]  # fmt: skip
        assert findings.count == 2
