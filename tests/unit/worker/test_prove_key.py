# SPDX-License-Identifier: GPL-3.0-or-later
"""Proving a master key on what a target was found to hold, with the real gocryptfs."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from offsited.core import gocryptfs
from offsited.core.config import Tools
from offsited.ctl import keyfile
from offsited.ctl.restore_key import check_ours
from offsited.errors import Exit, InvalidArgs
from offsited.worker import __main__ as worker
from offsited.worker.process import Child

from .conftest import PROJECT
from .machine import PASSPHRASE, Machine, done, memfd


@pytest.fixture
def synced(machine: Machine) -> Machine:
    (machine.snapshot("2026-01-01") / "file").write_text("content")
    done(machine.sync())
    return machine


def _key(key_file: Path) -> str:
    """The master key, as gocryptfs's own inspector finds it."""
    command = gocryptfs.prove_command(Tools().gocryptfs_xray, key_file)
    return subprocess.run(command, input=PASSPHRASE, check=True, capture_output=True).stdout.decode("ascii").strip()


def _prove(machine: Machine, key: str, monkeypatch: pytest.MonkeyPatch) -> int:
    with open(memfd(f"{key}\n".encode())) as typed:
        monkeypatch.setattr("sys.stdin", typed)
        return worker.main(["prove-key", "home"], machine.store)


def test_the_key_that_made_it(synced: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert _prove(synced, _key(synced.files.key_file), monkeypatch) == Exit.DONE
    assert capsys.readouterr().out == "seed\n"


def test_another_key(synced: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    key = _key(synced.files.key_file)
    assert _prove(synced, key[:-1] + ("0" if key[-1] != "0" else "1"), monkeypatch) == Exit.LOCKED


def test_a_mount_that_was_left_is_in_nobodys_way(synced: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """gocryptfs does not take it back if it is ended before it heeds signals; here: if it is killed."""
    monkeypatch.setattr(Child, "end", _kill)
    assert _prove(synced, _key(synced.files.key_file), monkeypatch) == Exit.DONE
    assert "offsited-prove-" not in Path("/proc/self/mountinfo").read_text()


async def _kill(child: Child) -> None:
    child._signal(signal.SIGKILL)
    await child.wait()
    child._transport.close()


@pytest.mark.parametrize("lost", ["commit.json", "sealed.json"])
def test_nothing_is_known_to_try_it_on(synced: Machine, lost: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (synced.known.directory / lost).write_text("damaged")
    assert _prove(synced, _key(synced.files.key_file), monkeypatch) == Exit.ABSENT


def test_a_key_file_is_taken_back_only_if_it_is_the_vaults(synced: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the worker in a process of its own, which is told where this machine is, and is in our mount namespace already."""
    imports = f"import sys; sys.path.insert(0, {PROJECT!r}); from pathlib import Path; from offsited.store import Store"
    store = f"Store(Path({str(synced.store.etc)!r}), Path({str(synced.store.var)!r}))"
    program = f"{imports}; from offsited.worker.__main__ import main; sys.exit(main(sys.argv[1:], {store}))"
    monkeypatch.setattr(keyfile, "_WORKER", (sys.executable, "-I", "-c", program))
    key = _key(synced.files.key_file)
    check_ours("home", key)
    with pytest.raises(InvalidArgs, match="another vault's"):
        check_ours("home", key[::-1])
    (synced.known.directory / "commit.json").unlink()
    check_ours("home", key[::-1])
