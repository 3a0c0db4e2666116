# SPDX-License-Identifier: GPL-3.0-or-later
"""Proving a passphrase, with the real gocryptfs-xray."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from offsited.errors import Exit
from offsited.store import Store
from offsited.worker import __main__ as worker

from .machine import PASSPHRASE, memfd


@pytest.fixture
def store(tmp_path: Path, key_file: Path) -> Store:
    store = Store(tmp_path / "etc", tmp_path / "var")
    files = store.vault_files("home")
    files.create()
    files.key_file.write_bytes(key_file.read_bytes())
    return store


@pytest.fixture
def standard_input() -> Iterator[None]:
    kept = os.dup(0)
    yield
    os.dup2(kept, 0)
    os.close(kept)


@pytest.mark.usefixtures("standard_input")
@pytest.mark.parametrize(
    ("passphrase", "status"),
    [(PASSPHRASE, Exit.DONE), (PASSPHRASE + b"\n", Exit.DONE), (b"wrong", Exit.LOCKED), (PASSPHRASE[:-1], Exit.LOCKED)],
)
def test_the_exit_status_is_the_answer(store: Store, passphrase: bytes, status: Exit, capfd: pytest.CaptureFixture[str]) -> None:
    os.dup2(memfd(passphrase), 0)
    assert worker.main(["prove", "home"], store) == status
    assert capfd.readouterr().out == "", "the master key"


@pytest.mark.usefixtures("standard_input")
@pytest.mark.parametrize("content", [b"", b"{}", b"not json", None])
def test_a_key_file_that_is_no_good(store: Store, content: bytes | None) -> None:
    key_file = store.vault_files("home").key_file
    key_file.unlink()
    if content is not None:
        key_file.write_bytes(content)
    os.dup2(memfd(PASSPHRASE), 0)
    assert worker.main(["prove", "home"], store) == Exit.CONFIG


@pytest.mark.parametrize("text", ['[tools]\ngocryptfs = "/nowhere/gocryptfs"', "[tools"])
def test_a_tool_or_a_file_that_is_no_good(store: Store, text: str) -> None:
    store.etc.mkdir()
    (store.etc / "offsited.toml").write_text(text)
    assert worker.main(["prove", "home"], store) == Exit.CONFIG


@pytest.mark.parametrize(
    "arguments", [[], ["prove"], ["sync", "home", "seed", "x"], ["sync", "home", "seed", "-1"], ["dance", "home", "seed", "1"]]
)
def test_another_command_line_is_refused(store: Store, arguments: list[str]) -> None:
    assert worker.main(arguments, store) == Exit.USAGE


def test_a_job_that_nobody_asked_for_is_refused(store: Store) -> None:
    assert worker.main(["sync", "home", "seed", "1"], store) == Exit.FAILED
