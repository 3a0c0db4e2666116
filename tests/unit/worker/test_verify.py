# SPDX-License-Identifier: GPL-3.0-or-later
"""Whole verifications with the real gocryptfs and rsync: what is wrong at a target is found and named, and nothing else is.

OFFSITED_FAULTS and OFFSITED_SEED choose how many faults are injected, or the same again:
OFFSITED_FAULTS=1000 python3 -m pytest tests/unit/worker/test_verify.py -k campaign
"""

import json
import os
import random
import shutil
import subprocess
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from offsited.core.outcome import Outcome, Reason
from offsited.core.record import JobRecord
from offsited.core.verification import Difference, What
from offsited.worker.fetching import shown_in_clear

from .faults import FAULTS, Fault, Mirror, Victims, untimed
from .machine import Machine, done, failed, holds
from .test_restore import furnish, furnished  # noqa: F401
from .trees import change, fill

COUNT = int(os.environ.get("OFFSITED_FAULTS", "34"))
SEED = int(os.environ.get("OFFSITED_SEED", str(random.SystemRandom().randrange(10**6))))
AT_ONCE = 34
"""Faults between two syncs: every kind twice."""


def different(record: JobRecord) -> JobRecord:
    assert (record.outcome, record.reason) == (Outcome.PARTIAL, Reason.VERIFIED_DIFFERENT), record.detail
    return record


@contextmanager
def mirror(machine: Machine) -> Iterator[Mirror]:
    """The target's mirror, to be tampered with."""
    work = machine.top / "mirror"
    work.mkdir(exist_ok=True)
    with machine.disk() as directory, Mirror.opened(directory / "current", machine.passphrase, work) as opened:
        yield opened


def clean(machine: Machine, level: str = "data") -> None:
    """A verification finds nothing."""
    record, found = machine.verify(level)
    assert found == []
    done(record)


def plant(top: Path, draw: random.Random) -> Path:
    """A tree with enough of everything to be damaged."""
    fill(top)
    for number in range(12):
        below = top / f"branch-{number}" / "twig"
        below.mkdir(parents=True)
        for leaf in range(12):
            (below / f"leaf-{leaf}").write_bytes(draw.randbytes(draw.choice((1, 100, 4096, 10_000, 30_000))))
            (below / f"link-{leaf}").symlink_to(f"to-{number}-{leaf}")
            (below / f"{leaf}-{'long' * 50}").write_bytes(draw.randbytes(20))
    (top / "aging").mkdir()
    return top


def grow(top: Path, draw: random.Random) -> None:
    """Files that have another content each time."""
    for number in range(AT_ONCE):
        file = top / "aging" / str(number)
        file.unlink(missing_ok=True)
        file.write_bytes(draw.randbytes(9000))


# --- nothing is wrong ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["commit", "metadata", "data"])
def test_an_untouched_target_is_as_it_should_be(machine: Machine, furnished: Path, level: str) -> None:  # noqa: F811
    record, found = machine.verify(level)
    assert found == []
    done(record)
    in_the_tree = machine.confirmed.entries - 1  # but for the long link, which the manifest alone keeps
    assert record.counts.entries == (0 if level == "commit" else in_the_tree)
    assert (record.counts.bytes > 0) is (level == "data")


def test_no_false_alarm_after_changes_links_and_a_reconcile(machine: Machine) -> None:
    first = fill(machine.snapshot("2026-11-20"))
    done(machine.sync())
    second = change(machine.copy(first, "2026-11-21"))
    done(machine.sync())
    clean(machine)
    third = machine.copy(second, "2026-11-22")
    (third / "d").rename(third / "moved")
    os.link(third / "a", third / "another-name")
    (third / "moved/hard").unlink()
    (third / "moved/hard").write_text("alone now")
    done(machine.sync())
    clean(machine)
    done(machine.sync(reconcile=True))
    clean(machine)


# --- faults --------------------------------------------------------------------------------------------------------


def inject(machine: Machine, faults: list[Fault], top: Path, draw: random.Random) -> dict[bytes, str]:
    """Do all of it; return what was done to each path."""
    done_to: dict[bytes, str] = {}
    with mirror(machine) as opened:
        victims = Victims.of(top, opened, machine.top / "older", draw)
        for fault in sorted(faults, key=lambda fault: fault.__name__ not in {"remove_directory", "wrong_iv", "wrong_name", "age"}):
            paths = fault(victims)
            done_to |= dict.fromkeys((paths,) if isinstance(paths, bytes) else paths, fault.__name__)
    for path in [path for path in done_to if os.path.lexists(top / os.fsdecode(path))]:
        done_to |= dict.fromkeys(other_names(top, path), done_to[path])
    return done_to


def other_names(top: Path, path: bytes) -> list[bytes]:
    """The names of a file, as the snapshot has it: what is done to one is done to all."""
    command: list[str | bytes] = ["find", str(top), "-samefile", os.fsencode(top) + b"/" + path, "-printf", "%P\\0"]
    return subprocess.run(command, check=True, capture_output=True).stdout.split(b"\0")[:-1]


def account_for(found: list[Difference], done_to: dict[bytes, str]) -> None:
    """Everything that was done was found by its name, and nothing else."""
    named = {one.path for one in found}
    assert {path: fault for path, fault in done_to.items() if path not in named} == {}
    others = [one for one in found if not any(one.path == path or one.path.startswith(path + b"/") for path in done_to)]
    assert others == []


def keep_mirror(machine: Machine) -> None:
    """What the target has now is to be what it had before."""
    shutil.rmtree(machine.top / "older", ignore_errors=True)
    with machine.disk() as directory:
        shutil.copytree(
            directory / "current", machine.top / "older", symlinks=True, ignore=lambda _, names: [n for n in names if _special(_, n)]
        )


def _special(directory: str, name: str) -> bool:
    path = Path(directory, name)
    return not (path.is_symlink() or path.is_file() or path.is_dir())


def test_a_campaign_of_faults(machine: Machine) -> None:
    """Each is found and named, a repair mends each, and the next verification finds nothing."""
    draw = random.Random(SEED)  # noqa: S311
    print(f"OFFSITED_SEED={SEED} OFFSITED_FAULTS={COUNT}")
    snapshot = plant(machine.snapshot("2026-11-20"), draw)
    grow(snapshot, draw)
    done(machine.sync())
    total = 0
    while total < COUNT:
        keep_mirror(machine)
        grow(snapshot, draw)
        done(machine.sync())
        faults = [FAULTS[(total + number) % len(FAULTS)] for number in range(min(AT_ONCE, COUNT - total))]
        done_to = inject(machine, faults, snapshot, draw)
        record, found = machine.verify(repair=True)
        different(record)
        account_for(found, done_to)
        repaired = done(machine.sync())
        assert repaired.counts.sent_entries < len(found) + 10 * AT_ONCE
        clean(machine)
        total += len(faults)
    holds(machine, snapshot)


# --- what is offsited's own ----------------------------------------------------------------------------------------


def flipped(file: Path) -> None:
    """One bit, and nothing tells by its time."""
    with untimed(file):
        content = file.read_bytes()
        file.write_bytes(content[:-20] + bytes((content[-20] ^ 1,)) + content[-19:])


def own(machine: Machine, opened: Mirror, name: str) -> Path:
    """Where a file of ours lies; `segment`: the only one of the manifest."""
    return opened.sealed(f"offsited/{machine.confirmed.segments[0].name if name == 'segment' else name}", beside=True)


@pytest.mark.parametrize(
    ("name", "what"),
    [("commit.json", What.COMMIT), ("previous.json", What.HISTORY), ("segment", What.MANIFEST), ("gocryptfs.conf", What.KEY_FILE)],
)
@pytest.mark.parametrize("harm", [flipped, Path.unlink])
def test_our_own_files_are_looked_at_and_mended(machine: Machine, name: str, what: What, harm: Callable[[Path], None]) -> None:
    snapshot = fill(machine.snapshot("2026-11-20"))
    done(machine.sync())
    (snapshot / "another").write_text("day")
    done(machine.sync())
    with mirror(machine) as opened:
        file = opened.current / name if name == "gocryptfs.conf" else own(machine, opened, name)
        harm(file)
    record, found = machine.verify("metadata", repair=True)
    different(record)
    assert what in {one.what for one in found}
    assert all(one.own for one in found)
    done(machine.sync())
    clean(machine)
    holds(machine, snapshot)


def test_a_damaged_commit_is_not_replaced_unless_it_was_found_to_be_damaged(machine: Machine) -> None:
    fill(machine.snapshot("2026-11-20"))
    done(machine.sync())
    with mirror(machine) as opened:
        flipped(own(machine, opened, "commit.json"))
    failed(machine.sync(), Reason.TARGET_UNKNOWN)


def test_the_top_s_own_iv_is_looked_at_and_mended(machine: Machine) -> None:
    snapshot = fill(machine.snapshot("2026-11-20"))
    done(machine.sync())
    with machine.disk() as directory:
        iv = directory / "current/gocryptfs.diriv"
        with untimed(iv):
            iv.chmod(0o600)
            iv.write_bytes(bytes(16))
    record, found = machine.verify("data", repair=True)
    different(record)
    assert Difference(b"gocryptfs.diriv", What.MANIFEST, "what gocryptfs keeps for its name is damaged", own=True) in found
    done(machine.sync())
    clean(machine)
    holds(machine, snapshot)


def test_what_does_not_belong_beside_the_snapshot_is_found_and_removed(machine: Machine) -> None:
    fill(machine.snapshot("2026-11-20"))
    done(machine.sync())
    with mirror(machine) as opened:
        (opened.current / "stray").mkdir()
        (opened.current / "stray/file").touch()
        (opened.current / "with a dot.").touch()
        own(machine, opened, "commit.json").with_name("unknown").touch()
        opened.sealed("offsited/unknown", beside=True).touch()
    record, found = machine.verify("metadata", repair=True)
    different(record)
    assert {one.what for one in found} == {What.EXTRA}
    assert len(found) == 4
    assert b"offsited/unknown" in {one.path for one in found}
    done(machine.sync())
    clean(machine)


def test_a_target_that_was_rolled_back_is_told_from_one_that_somebody_else_wrote(machine: Machine) -> None:
    snapshot = fill(machine.snapshot("2026-11-20"))
    done(machine.sync())
    with machine.disk() as directory:
        subprocess.run(["cp", "-a", str(directory / "current"), str(machine.top / "back")], check=True)
    (snapshot / "a").unlink()
    (snapshot / "later").write_text("later")
    state = machine.top / "state"
    shutil.copytree(machine.files.target("seed"), state)
    done(machine.sync())
    with machine.disk() as directory:
        subprocess.run(["rsync", "-aH", "--delete", f"{machine.top}/back/", f"{directory}/current/"], check=True)
    record, found = machine.verify("metadata", repair=True)
    different(record)
    assert {(one.path, one.what) for one in found} >= {
        (b"commit.json", What.ROLLED_BACK), (b"later", What.MISSING), (b"a", What.EXTRA)
    }  # fmt: skip
    done(machine.sync())
    clean(machine)
    shutil.rmtree(machine.files.target("seed"))
    state.rename(machine.files.target("seed"))  # this machine has forgotten the last sync
    failed(machine.verify("commit")[0], Reason.TARGET_UNKNOWN)


# --- what is unsettled ---------------------------------------------------------------------------------------------


def test_what_an_interrupted_sync_was_about_to_change_is_no_difference_and_not_green_either(machine: Machine) -> None:
    snapshot = fill(machine.snapshot("2026-11-20"))
    done(machine.sync())
    (snapshot / "d/b").unlink()
    (snapshot / "new").write_text("new")
    (snapshot / "a").write_text("in place: another name of it is d/hard")
    machine.killed(machine.sync, "offsited.worker.mirror.Mirror._delete")
    record, found = machine.verify()
    assert found == []
    assert (record.outcome, record.reason) == (Outcome.PARTIAL, Reason.TARGET_IN_DOUBT)
    with mirror(machine) as opened:
        opened.sealed("hollow").chmod(0o700)
    record, found = machine.verify()
    different(record)
    assert [(one.path, one.what) for one in found] == [(b"hollow", What.MODE)]
    done(machine.sync())


def test_what_is_in_doubt_is_not_taken_for_a_difference_of_the_top(machine: Machine) -> None:
    """gocryptfs's own beside it, too."""
    snapshot = fill(machine.snapshot("2026-11-20"))
    long = "n" * 200
    (snapshot / long).write_text("before")
    done(machine.sync())
    (snapshot / long).write_text("afterwards")
    machine.killed(machine.sync, "offsited.worker.mirror.Mirror._send")
    with mirror(machine) as opened:
        sealed = opened.sealed(long)
        flipped(sealed.with_name(f"{sealed.name}.name"))
    record, found = machine.verify("metadata")
    assert found == []
    assert (record.outcome, record.reason) == (Outcome.PARTIAL, Reason.TARGET_IN_DOUBT)


def test_a_repair_stays_due_until_a_sync_has_done_it(machine: Machine) -> None:
    snapshot = fill(machine.snapshot("2026-11-20"))
    done(machine.sync())
    with mirror(machine) as opened:
        flipped(opened.sealed("became-file/x"))
    different(machine.verify(repair=True)[0])
    machine.killed(machine.sync, "offsited.worker.mirror.Mirror._send")
    record, found = machine.verify()
    assert (record.outcome, found) == (Outcome.PARTIAL, [])
    done(machine.sync())
    clean(machine)
    holds(machine, snapshot)


def beside(machine: Machine, ended: list[str]) -> None:
    """A sync that runs beside what this process does, as long as its unit's directory is there."""
    unit = machine.top / "offsited-job-home"
    unit.mkdir()
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # it becomes a program of one thread
        pid = os.fork()
    if pid == 0:
        try:
            machine.leave_mounts()
            os._exit(0 if machine.sync().outcome is Outcome.DONE else 1)
        finally:
            os._exit(2)

    def wait() -> None:
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        unit.rmdir()
        ended.append("done" if status == 0 else f"failed: {status}")

    threading.Thread(target=wait).start()


@pytest.mark.parametrize("step", ["contents.Contents.compare_each", "listed.Listed._walk", "verify_commit._has_predecessor"])
def test_a_verification_gives_way_to_a_sync_and_reads_again(machine: Machine, step: str) -> None:
    """The sync writes to the very disk that is read; what was read before it does not count."""
    snapshot = fill(machine.snapshot("2026-11-20"))
    done(machine.sync())
    (snapshot / "a").unlink()
    (snapshot / "new").write_text("new")
    ended: list[str] = []
    with machine.when(f"offsited.worker.{step}", lambda: beside(machine, ended)):
        record, found = machine.verify()
    done(record)
    assert found == []
    assert ended == ["done"]
    assert record.counts.entries == machine.confirmed.entries
    clean(machine)


def test_a_file_of_a_sample_and_what_is_due(machine: Machine) -> None:
    snapshot = machine.snapshot("2026-11-20")
    for number in range(40):
        (snapshot / f"{number:02}").write_bytes(os.urandom(50_000))
    done(machine.sync())
    record, _ = machine.verify(sample=10)
    assert done(record).counts.bytes == 10 * 50_000
    with mirror(machine) as opened:
        flipped(opened.sealed("39"))
    machine.verify_days = 20
    read = []
    for _ in range(3):  # a week's share, and a day's more each time
        record, found = machine.verify("")
        read.append(record.counts.bytes)
        age_rotation(machine, days=7)
    assert read == [800_000, 850_000, 850_000]  # and the time that this takes
    assert [one.path for one in found] == [b"39"]
    assert sum(read) >= 40 * 50_000


def test_a_file_of_several_names_makes_no_round_longer(machine: Machine) -> None:
    """It is read once for each of its names, and so it is counted."""
    snapshot = machine.snapshot("2026-11-20")
    for number in range(10):
        (snapshot / f"{number}").write_bytes(os.urandom(50_000))
        os.link(snapshot / f"{number}", snapshot / f"other-{number}")
    done(machine.sync())
    machine.verify_days = 20
    read = []
    for _ in range(3):
        read.append(machine.verify("")[0].counts.bytes)
        age_rotation(machine, days=7)
    assert sum(read) >= 20 * 50_000


def test_a_mount_is_used_for_so_many_entries_alone(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """gocryptfs forgets nothing: two million entries would fill its memory."""
    snapshot = machine.snapshot("2026-11-20")
    for number in range(25):
        (snapshot / f"{number:02}").write_bytes(b"x" * (number + 1))
    done(machine.sync())
    with mirror(machine) as opened:
        flipped(opened.sealed("03"))
        flipped(opened.sealed("21"))
    monkeypatch.setattr("offsited.worker.verify_content.MOUNT_ENTRIES", 10)
    monkeypatch.setattr("offsited.worker.verify_content.SLICE_ENTRIES", 5)
    mounts: list[object] = []

    def counted(*given: Any) -> Any:
        mounts.append(given)
        return shown_in_clear(*given)

    monkeypatch.setattr("offsited.worker.verify_content.shown_in_clear", counted)
    record, found = machine.verify()
    different(record)
    assert [one.path for one in found] == [b"03", b"21"]
    assert record.counts.bytes == sum(range(1, 26))
    assert len(mounts) == 3


def age_rotation(machine: Machine, *, days: int) -> None:
    """Let days pass since content was read last."""
    file = machine.files.target("seed") / "rotation.json"
    document = json.loads(file.read_text())
    document["read"] -= days * 86_400_000_000
    file.write_text(json.dumps(document))


@pytest.mark.parametrize("harm", ["lost", "damaged"])
def test_our_own_ledger_may_be_lost(machine: Machine, harm: str) -> None:
    fill(machine.snapshot("2026-11-20"))
    done(machine.sync())
    ledger = machine.files.target("seed") / "manifest.sqlite"
    if harm == "lost":
        ledger.unlink()
    else:
        ledger.write_bytes(b"no database" * 1000)
    clean(machine)
