# SPDX-License-Identifier: GPL-3.0-or-later
"""offsited-manifest(5) is a promise: its ten lines of Python list a manifest, and it names every key that a row can have."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from offsited.core.manifest import HOLES_KEPT, KINDS, Header, Row, decode_line, encode_gone, encode_row
from offsited.core.plan import SEALED_PATH_LIMIT, SYMLINK_LIMIT
from offsited.worker import entry

from .workshop import Bench

PAGE = Path(__file__).parents[3] / "packaging/man/offsited-manifest.5.scd"
FULL = Row(
    b"p", "l", 0o777, 1, 2, 3, 4, 5, (6, 7), b"t", (("user.x", b"v"),), "i", ((0, 1),), bytes(32), held=True, unreadable=True, carried=True
)


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """The program, as somebody would copy it from the page."""
    found = re.search(r"^```\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert found
    path = tmp_path / "list.py"
    path.write_text(found[1].replace("\\\\", "\\"))
    return path


def test_the_lines_of_the_page_list_a_manifest(tmp_path: Path, program: Path) -> None:
    top = tmp_path / "top"
    (top / "gone").mkdir(parents=True)
    for name in (b"a", b"\xff", b"new\nline", b"gone/x", b"z", *(b"%d" % number for number in range(30))):
        Path(os.fsdecode(os.path.join(os.fsencode(top), name))).write_bytes(name)
    (tmp_path / "state").mkdir()
    bench = Bench(tmp_path / "state")
    bench.sync(top)
    (top / "gone" / "x").unlink()
    (top / "gone").rmdir()
    (top / "z").write_bytes(b"another")
    bench.sync(top)
    assert len(bench.segments) == 2
    names = [segment.name for segment in bench.segments]
    command = [sys.executable, "-I", str(program), *names]
    printed = subprocess.run(command, cwd=bench.directory, stdout=subprocess.PIPE, check=True, text=True).stdout
    found = [line.split("\t") for line in printed.splitlines()]
    rows = sorted(bench.rows().values())
    assert [ast.literal_eval(fields[-1]) for fields in found] == [row.path for row in rows]
    expected = [[row.kind, f"{row.mode:04o}", str(row.size), row.sha256.hex() or "-"] for row in rows]
    assert [fields[:-1] for fields in found] == expected


def test_the_program_is_short(program: Path) -> None:
    assert len(program.read_text().splitlines()) <= 12


def test_every_key_is_on_the_page() -> None:
    page = PAGE.read_text()
    keys = {*json.loads(encode_row(FULL)), *json.loads(encode_gone(b"p")), *json.loads(Header("v", "t", 1).encode())}
    assert decode_line(encode_row(FULL).encode())[1] == FULL
    assert {field for field in Row._fields if field not in {"kind", "inode"}} <= keys
    assert [key for key in keys if f"*{key}*" not in page] == []


def test_the_numbers_and_letters_are_on_the_page() -> None:
    page = PAGE.read_text()
    for number in (SYMLINK_LIMIT, SEALED_PATH_LIMIT, HOLES_KEPT):
        assert f"{number:,}" in page
    for letter in KINDS:
        assert re.search(rf"\b{letter} an? ", page)
    assert "_" + "".join(letter for _, letter in entry.LETTERS) + "_" in page
