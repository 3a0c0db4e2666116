# SPDX-License-Identifier: GPL-3.0-or-later
"""Finding and opening a snapshot, in a real tree."""

import os
import socket
import time
from pathlib import Path

import pytest

from offsited.core import config
from offsited.core.outcome import Reason
from offsited.errors import JobFailed
from offsited.worker import snapshot

R = Reason
FUTURE = time.strftime("%Y-%m-%d", time.localtime(time.time() + 10 * 24 * 3600))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "backup"
    for name in ("2026-11-23", "2026-11-24", "other"):
        (root / name).mkdir(parents=True)
        (root / name / "file").write_text(name)
    (root / "latest").symlink_to("2026-11-23")
    (root / "zz-2025-01-01").write_text("a file")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").touch()
    (root / "away").symlink_to("../outside")
    return root


def source(root: Path, kind: str, path: str) -> config.Source:
    return config.Source.model_validate({"kind": kind, "path": path, "root": str(root)})


def opened(found: config.Source, *, last: int = 0, any_age: bool = False) -> snapshot.Snapshot:
    return snapshot.open_newest(found, last=last, any_age=any_age)


def refused(found: config.Source, *, last: int = 0) -> str:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(JobFailed) as caught:
        opened(found, last=last)
    assert os.listdir("/proc/self/fd") == before, "a descriptor was left open"
    return caught.value.reason


def lastdst(root: Path, content: str | bytes) -> config.Source:
    (root / "lastdst").write_bytes(os.fsencode(content))
    return source(root, "lastdst", f"{root}/lastdst")


def midnight(*date: int) -> int:
    return round(time.mktime((*date, 0, 0, 0, 0, 0, -1))) * 1_000_000  # type: ignore[arg-type]


def test_what_lastdst_names_is_opened(root: Path) -> None:
    found = opened(lastdst(root, f"{root}/2026-11-24\n"))
    assert (found.name, found.dated) == ("2026-11-24", midnight(2026, 11, 24))
    status = (root / "2026-11-24").stat()
    assert (found.device, found.inode) == (status.st_dev, status.st_ino)
    assert os.listdir(found.descriptor) == ["file"]
    assert abs(found.opened - time.time() * 1_000_000) < 60_000_000


def test_the_descriptor_stays_whatever_becomes_of_the_path(root: Path) -> None:
    found = opened(lastdst(root, f"{root}/2026-11-24"))
    (root / "2026-11-24").rename(root / "gone")
    assert os.path.samestat(os.fstat(found.descriptor), (root / "gone").stat())


def test_the_newest_is_a_directory_never_a_link_or_a_file(root: Path) -> None:
    assert opened(source(root, "newest", f"{root}/*")).name == "2026-11-24"


def test_a_link_dated_later_does_not_win(root: Path) -> None:
    (root / "2027-05-05").symlink_to("2026-11-23")
    assert opened(source(root, "newest", f"{root}/20*")).name == "2026-11-24"


def test_a_fixed_path_may_be_the_root(root: Path) -> None:
    found = opened(source(root / "other", "path", f"{root}/other"))
    assert (found.name, found.dated) == ("other", 0)


def test_a_name_that_is_no_text_is_printable(root: Path) -> None:
    directory = os.fsencode(root) + b"/2026-11-25-\xff"
    os.mkdir(directory)
    (Path(os.fsdecode(directory)) / "x").touch()
    assert opened(lastdst(root, directory)).name == "2026-11-25-\\xff"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", R.SOURCE_MALFORMED),
        ("relative", R.SOURCE_MALFORMED),
        ("{root}/2026-11-24\n{root}/2026-11-23", R.SOURCE_MALFORMED),
        ("{root}/../outside", R.SOURCE_MALFORMED),
        ("{root}" + "/x" * 5000, R.SOURCE_MALFORMED),
        ("{root}/missing", R.SNAPSHOT_MISSING),
        ("{root}", R.SNAPSHOT_OUTSIDE_ROOT),
        ("/etc", R.SNAPSHOT_OUTSIDE_ROOT),
        ("{root}/latest", R.SNAPSHOT_SYMLINK),
        ("{root}/away", R.SNAPSHOT_SYMLINK),
        ("{root}/latest/.", R.SNAPSHOT_SYMLINK),
        ("{root}/zz-2025-01-01", R.SNAPSHOT_NOT_DIRECTORY),
        ("{root}/empty", R.SNAPSHOT_EMPTY),
        ("{root}/" + FUTURE, R.SNAPSHOT_FUTURE),
    ],
)
def test_what_must_not_be_synced(root: Path, content: str, reason: Reason) -> None:
    (root / "empty").mkdir()
    (root / FUTURE).mkdir()
    assert refused(lastdst(root, content.format(root=root))) == reason


def test_an_older_snapshot_unless_told(root: Path) -> None:
    found = lastdst(root, f"{root}/2026-11-23")
    last = midnight(2026, 11, 24)
    assert refused(found, last=last) == R.SNAPSHOT_OLDER
    assert opened(found, last=last, any_age=True).name == "2026-11-23"
    assert opened(lastdst(root, f"{root}/2026-11-24"), last=last).name == "2026-11-24"


def test_a_future_snapshot_if_told(root: Path) -> None:
    (root / FUTURE / "x").mkdir(parents=True)
    assert opened(lastdst(root, f"{root}/{FUTURE}"), any_age=True).name == FUTURE


@pytest.mark.parametrize("kind", ["missing", "fifo", "socket", "directory", "link"])
def test_what_is_put_in_the_place_of_lastdst_is_refused_and_cannot_make_us_wait(root: Path, kind: str) -> None:
    place = root / "lastdst"
    match kind:
        case "fifo":
            os.mkfifo(place)
        case "socket":
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(place))
        case "directory":
            place.mkdir()
        case "link":
            (root / "real").write_text(f"{root}/2026-11-24")
            place.symlink_to("real")
    assert refused(source(root, "lastdst", str(place))) in {R.SOURCE_MISSING, R.SOURCE_MALFORMED}


def test_nothing_matches(root: Path) -> None:
    assert refused(source(root, "newest", f"{root}/19*")) == R.SNAPSHOT_MISSING


def test_a_root_that_is_not_there(tmp_path: Path) -> None:
    """Not mounted, say."""
    assert refused(source(tmp_path / "missing", "path", f"{tmp_path}/missing")) == R.SNAPSHOT_MISSING


def test_a_snapshot_that_cannot_be_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk gives an I/O error for its first entry."""

    def fails(_path: object) -> object:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "scandir", fails)
    with pytest.raises(JobFailed) as caught:
        opened(lastdst(root, f"{root}/2026-11-24"))
    assert caught.value.reason == R.SNAPSHOT_UNREADABLE


def test_the_youngest_by_birth(root: Path) -> None:
    """A file system's own account: names may say what they like."""
    young = root / "1999-01-01"
    young.mkdir()
    (young / "file").touch()
    by_birth = source(root, "newest", f"{root}/*").model_copy(update={"order": "btime"})
    found = opened(by_birth)
    assert found.name == "1999-01-01"
    assert abs(found.dated - time.time() * 1_000_000) < 60_000_000
    assert refused(by_birth, last=found.dated + 1) == R.SNAPSHOT_OLDER


@pytest.mark.parametrize("marker", ["info.json", "a/b"])
def test_without_the_mark_of_a_finished_snapshot_it_is_refused(root: Path, marker: str) -> None:
    marked = lastdst(root, f"{root}/2026-11-24").model_copy(update={"finished": (marker,)})
    assert refused(marked) == R.SNAPSHOT_UNFINISHED
    (root / "2026-11-24" / marker).parent.mkdir(exist_ok=True)
    (root / "2026-11-24" / marker).touch()
    assert opened(marked).name == "2026-11-24"


def test_with_the_mark_of_an_unfinished_one_it_is_refused(root: Path, tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    marked = lastdst(root, f"{root}/2026-11-24").model_copy(update={"unfinished": (str(lock), ".incomplete")})
    assert opened(marked).name == "2026-11-24"
    for mark in (lock, root / "2026-11-24" / ".incomplete"):
        mark.symlink_to("nowhere")
        assert refused(marked) == R.SNAPSHOT_UNFINISHED
        mark.unlink()


def test_a_mark_that_lies_elsewhere_counts_for_nothing(root: Path) -> None:
    (root / "2026-11-24" / "away").symlink_to("/")
    marked = lastdst(root, f"{root}/2026-11-24").model_copy(update={"finished": ("away/etc",)})
    assert refused(marked) == R.SNAPSHOT_UNFINISHED


def test_lastdst_of_somebody_else_is_refused(root: Path) -> None:
    """It decides what is read with root's rights."""
    found = lastdst(root, f"{root}/2026-11-24")
    os.chown(root / "lastdst", 1000, 1000)
    assert refused(found) == R.SOURCE_MALFORMED
    os.chown(root, 1000, 1000)
    assert opened(found).name == "2026-11-24", "whoever owns the snapshots may say which is the newest"
    (root / "lastdst").chmod(0o666)
    assert refused(found) == R.SOURCE_MALFORMED
