# SPDX-License-Identifier: GPL-3.0-or-later
"""Manifests that lie at targets since earlier versions are read for ever: one of each format, as it was written, is kept here.

A directory is never changed. Who changes the format adds another one: `format-N/`, a commit with its segments, and what they say as
`rows.json`.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from offsited.core.commit import Commit, parse_commit
from offsited.core.manifest import FORMAT, Row
from offsited.worker import segments
from offsited.worker.ledger import Ledger

KEPT = sorted(Path(__file__).parent.glob("format-*"))


def row(document: dict[str, Any]) -> Row:
    """As `rows.json` has it."""
    path, target, sha256 = document.pop("path"), document.pop("target"), document.pop("sha256")
    xattrs = tuple((name, bytes.fromhex(value)) for name, value in document.pop("xattrs"))
    holes = tuple((offset, length) for offset, length in document.pop("holes"))
    rest = {**document, "rdev": tuple(document["rdev"]), "xattrs": xattrs, "holes": holes}
    return Row(path.encode("utf-8", "surrogateescape"), target=target.encode(), sha256=bytes.fromhex(sha256), **rest)


def commit(kept: Path) -> Commit:
    found = parse_commit((kept / "commit.json").read_bytes())
    assert found
    return found


def test_the_present_format_is_kept() -> None:
    assert KEPT[-1].name == f"format-{FORMAT}"


@pytest.mark.parametrize("kept", KEPT, ids=lambda kept: kept.name)
def test_a_kept_manifest_says_what_it_said(kept: Path, tmp_path: Path) -> None:
    wanted = [row(document) for document in json.loads((kept / "rows.json").read_text())]
    assert {found.kind for found in wanted} == set("fdlpscb")
    assert any(found.xattrs for found in wanted)
    assert any(found.holes for found in wanted)
    assert any(found.flags for found in wanted)
    assert any(found.link for found in wanted)
    assert any(found.carried for found in wanted)
    listed = commit(kept).segments
    assert len(listed) > 1
    assert list(segments.listed(kept, listed)) == wanted
    with Ledger.opened(tmp_path / "ledger") as ledger:
        ledger.rebuild((segments.rows(kept / segment.name, segment) for segment in listed), "kept")
        assert sorted(found._replace(inode=0) for found in ledger.rows()) == sorted(wanted)
