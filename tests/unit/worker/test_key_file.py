# SPDX-License-Identifier: GPL-3.0-or-later
"""The key file on its way to a target: a changed one arrives although nothing else has changed, a damaged one never does."""

import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest

from offsited.core.outcome import Reason
from offsited.errors import Exit
from offsited.store import KeyRecord
from offsited.worker import __main__ as worker

from .machine import PASSPHRASE, Machine, done, failed, memfd

NEW = b"another horse"
THERE = "current/gocryptfs.conf"


@pytest.fixture
def synced(machine: Machine) -> Machine:
    """A target that holds the snapshot, and a key file that is on record."""
    (machine.snapshot("2026-01-01") / "file").write_text("content")
    machine.files.write_key_record(KeyRecord(sha256=machine.files.key_digest()))
    done(machine.sync())
    return machine


def _change(machine: Machine, new: bytes = NEW) -> None:
    """Another passphrase, as offsitectl leaves it."""
    key_file = machine.files.key_file
    key_file.chmod(0o600)
    command = ["gocryptfs", "-passwd", "-q", "-reverse", f"-config={key_file}", "--", str(machine.files.plain)]
    subprocess.run(command, input=machine.passphrase + b"\n" + new + b"\n", check=True, capture_output=True)
    machine.files.write_key_record(KeyRecord(sha256=machine.files.key_digest(), changed=1))
    machine.passphrase = new


def _content(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_changed_passphrase_arrives_with_the_next_sync(synced: Machine) -> None:
    old = synced.files.key_digest()
    _change(synced)
    record = done(synced.sync())
    assert record.detail == ""
    assert record.key_file == synced.files.key_digest() != old
    with synced.disk() as home:
        assert _content(home / THERE) == record.key_file
    again = done(synced.sync())
    assert again.key_file == record.key_file
    assert again.commit == ""


def test_a_key_file_that_was_tampered_with_at_the_target_is_sent_again(synced: Machine) -> None:
    """Of the same size and time as the right one: rsync alone would not see it."""
    with synced.disk() as home:
        there = home / THERE
        status = there.stat()
        text = there.read_text()
        there.chmod(0o600)
        there.write_text(text.replace(json.loads(text)["EncryptedKey"][:8], "AAAAAAAA"))
        os.utime(there, ns=(status.st_atime_ns, status.st_mtime_ns))
    record = done(synced.sync())
    assert "gocryptfs.conf at the target" in record.detail
    with synced.disk() as home:
        assert _content(home / THERE) == synced.files.key_digest()


def test_a_key_file_that_is_gone_from_the_target_is_sent_again(synced: Machine) -> None:
    with synced.disk() as home:
        (home / THERE).unlink()
    record = done(synced.sync())
    assert "gocryptfs.conf at the target" in record.detail
    with synced.disk() as home:
        assert _content(home / THERE) == synced.files.key_digest()


def _flip(machine: Machine) -> None:
    """One character, so that it is a key file still."""
    file = machine.files.key_file
    text = file.read_text()
    file.chmod(0o600)
    file.write_text(text.replace('"Creator"', '"creator"'))


def test_a_damaged_key_file_never_gets_to_a_target(synced: Machine) -> None:
    """Not even one that the passphrase opens."""
    _flip(synced)
    (synced.snapshot("2026-01-02") / "more").write_text("more")
    failed(synced.sync(), Reason.KEY_FILE_DAMAGED)
    with synced.disk() as home:
        assert _content(home / THERE) != synced.files.key_digest()


def test_a_change_that_was_interrupted_leaves_a_key_file_that_is_right(synced: Machine) -> None:
    """Before and after the one moment at which it is replaced."""
    old, before = synced.files.key_digest(), synced.files.key_file.read_bytes()
    _change(synced)
    new = synced.files.key_digest()
    synced.files.write_key_record(KeyRecord(sha256=old, next=new))
    assert synced.files.key_file_is_right()
    synced.files.key_file.write_bytes(before)
    assert synced.files.key_file_is_right()
    synced.files.write_key_record(KeyRecord(sha256=old))
    synced.files.key_file.unlink()
    assert not synced.files.key_file_is_right()


def test_proving_tells_a_damaged_key_file_from_a_wrong_passphrase(synced: Machine) -> None:
    kept = os.dup(0)
    _flip(synced)
    try:
        os.dup2(memfd(PASSPHRASE), 0)
        assert worker.main(["prove", "home"], synced.store) == Exit.CONFIG
    finally:
        os.dup2(kept, 0)
        os.close(kept)


def test_a_vault_of_an_earlier_version_is_guarded_from_its_next_sync_on(machine: Machine) -> None:
    assert machine.files.key_record() is None
    assert machine.files.key_file_is_right()
    (machine.snapshot("2026-01-01") / "file").write_text("content")
    done(machine.sync())
    assert machine.files.key_record() == KeyRecord(sha256=machine.files.key_digest())
