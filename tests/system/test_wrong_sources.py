# SPDX-License-Identifier: GPL-3.0-or-later
"""A source that goes wrong, before a sync or at any moment while it runs: nothing is lost at the target, and no success is told.

Some of them by chance; OFFSITED_TIMINGS=20 tests/run system -k wrong_source: all of them, each at twenty moments.
"""

import os
import random
import shutil
import threading
from collections.abc import Callable

import pytest

from .daemon import VAULT as VAULT_INTERFACE
from .daemon import get
from .machine import must, run, shown, wait_for_end
from .mirrors import Mirror
from .trees import Tree, census, copy_linked
from .vaults import OnDisk

TIMINGS = int(os.environ.get("OFFSITED_TIMINGS", "0"))
SEED = int(os.environ.get("OFFSITED_SEED", str(random.SystemRandom().randrange(10**6))))
LONGEST = 1.2
"""Seconds after which a sync of these few files has ended."""
COUNT = 24
Wrong = Callable[[OnDisk], object]


def _no_lastdst(home: OnDisk) -> None:
    home.vault.lastdst.unlink()


def _empty_lastdst(home: OnDisk) -> None:
    home.vault.lastdst.write_text("")


def _lastdst_cut_short(home: OnDisk) -> None:
    home.vault.lastdst.write_text(str(home.second)[:-1])


def _lastdst_of_a_fifo(home: OnDisk) -> None:
    home.vault.lastdst.unlink()
    must("mkfifo", home.vault.lastdst)


def _lastdst_of_a_directory(home: OnDisk) -> None:
    home.vault.lastdst.unlink()
    home.vault.lastdst.mkdir()


def _lastdst_of_garbage(home: OnDisk) -> None:
    home.vault.lastdst.write_bytes(b"\0\xff\n" * 1000)


def _lastdst_of_a_user(home: OnDisk) -> None:
    os.chown(home.vault.lastdst, 1000, 1000)


def _outside(home: OnDisk) -> None:
    home.vault.point_at("/usr/share")


def _the_root(home: OnDisk) -> None:
    home.vault.point_at("/")


def _an_older_one(home: OnDisk) -> None:
    home.vault.point_at(copy_linked(home.first, home.vault.root / "2025-01-01"))


def _one_of_the_future(home: OnDisk) -> None:
    home.vault.point_at(copy_linked(home.first, home.vault.root / "2099-01-01"))


def _an_empty_one(home: OnDisk) -> None:
    (home.vault.root / "2026-05-05").mkdir()
    home.vault.point_at(home.vault.root / "2026-05-05")


def _a_half_one(home: OnDisk) -> None:
    half = copy_linked(home.second, home.vault.root / "2026-05-05")
    for path in sorted(half.rglob("file-*"))[: COUNT // 2]:
        path.unlink()
    home.vault.point_at(half)


def _a_foreign_one(home: OnDisk) -> None:
    foreign = home.vault.root / "2026-05-05"
    foreign.mkdir()
    (foreign / "other").write_text("foreign")
    home.vault.point_at(foreign)


def _renamed_away(home: OnDisk) -> None:
    home.second.rename(home.vault.root / "elsewhere")


def _out_of_the_root(home: OnDisk) -> None:
    home.second.rename(home.vault.root.with_suffix(".away"))


def _replaced_by_an_empty_one(home: OnDisk) -> None:
    home.second.rename(home.vault.root / "elsewhere")
    home.second.mkdir()


def _replaced_by_a_foreign_one(home: OnDisk) -> None:
    _replaced_by_an_empty_one(home)
    (home.second / "other").write_text("foreign")


def _replaced_by_a_link(home: OnDisk) -> None:
    home.second.rename(home.vault.root / "elsewhere")
    home.second.symlink_to("/usr/share")


def _replaced_by_a_file(home: OnDisk) -> None:
    home.second.rename(home.vault.root / "elsewhere")
    home.second.write_text("a file")


def _pruned(home: OnDisk) -> None:
    shutil.rmtree(home.second)


def _half_pruned(home: OnDisk) -> None:
    for path in sorted(home.second.rglob("file-*"))[: COUNT // 2]:
        path.unlink()


def _a_directory_pruned(home: OnDisk) -> None:
    shutil.rmtree(home.second / "d0")
    shutil.rmtree(home.second / "d1")


def _a_directory_became_a_link(home: OnDisk) -> None:
    _a_directory_pruned(home)
    (home.second / "d0").symlink_to("/usr/share")


def _something_mounted_over_it(home: OnDisk) -> None:
    must("mount", "-t", "tmpfs", "none", home.second)


def _something_mounted_over_a_directory(home: OnDisk) -> None:
    must("mount", "-t", "tmpfs", "none", home.second / "d0")


def _something_mounted_over_the_root(home: OnDisk) -> None:
    must("mount", "-t", "tmpfs", "none", home.vault.root)


def _root_renamed(home: OnDisk) -> None:
    home.vault.root.rename(home.vault.root.with_suffix(".away"))


def _unfinished(home: OnDisk) -> None:
    (home.second / ".incomplete").touch()


KINDS: list[Wrong] = [
    _no_lastdst, _empty_lastdst, _lastdst_cut_short, _lastdst_of_a_fifo, _lastdst_of_a_directory, _lastdst_of_garbage, _lastdst_of_a_user,
    _outside, _the_root, _an_older_one, _one_of_the_future, _an_empty_one, _a_half_one, _a_foreign_one, _renamed_away, _out_of_the_root,
    _replaced_by_an_empty_one, _replaced_by_a_foreign_one, _replaced_by_a_link, _replaced_by_a_file, _pruned, _half_pruned,
    _a_directory_pruned, _a_directory_became_a_link, _something_mounted_over_it, _something_mounted_over_a_directory,
    _something_mounted_over_the_root, _root_renamed, _unfinished,
]  # fmt: skip


def files(tree: Tree) -> dict[bytes, bytes]:
    """Regular files and the hash of each."""
    return {path: facts[7] for path, facts in tree.items() if facts[0] == b"f"}


def content(home: OnDisk) -> dict[bytes, bytes]:
    with home.disk.mounted() as top, Mirror(home.vault, top / home.vault.name / "current").clear() as clear:
        return files(census(clear / "backup"))


@pytest.fixture
def waiting(home: OnDisk) -> OnDisk:
    """A synced snapshot, and a second one with new, changed and unchanged files that waits."""
    for number in range(COUNT):
        path = home.first / f"d{number % 4}" / f"file-{number}"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"first {number}\n" * 500)
    home.vault.edit(r"^\[source\]\n", '[source]\nunfinished = [".incomplete"]\n')
    home.vault.synced()
    return home


def make_second(home: OnDisk) -> None:
    copy_linked(home.first, home.second)
    for number in range(0, COUNT, 3):
        path = home.second / f"d{number % 4}" / f"file-{number}"
        path.unlink()
        path.write_text(f"second {number}\n" * 500)
        (home.second / f"d{number % 4}" / f"new-{number}").write_text(f"new {number}\n" * 500)
    home.vault.point_at(home.second)


def put_right(home: OnDisk) -> None:
    """The snapshots as they were, whatever became of them."""
    away = home.vault.root.with_suffix(".away")
    for place in (home.second / "d0", home.second, home.vault.root):
        run("umount", "-l", place)
    if away.exists() and (away / "2026-01-01").exists():
        shutil.rmtree(home.vault.root, ignore_errors=True)
        away.rename(home.vault.root)
    elif away.exists():
        shutil.rmtree(away)
    for path in home.vault.root.iterdir():
        if path == home.first:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def test_nothing_is_lost_by_a_wrong_source(waiting: OnDisk) -> None:
    draw = random.Random(SEED)  # noqa: S311 - the same again for the same seed, but for the moments
    rounds = KINDS * TIMINGS if TIMINGS else draw.sample(KINDS, 6)
    before = content(waiting)
    for kind in rounds:
        make_second(waiting)
        wanted = files(census(waiting.second))
        at_once = draw.random() < 0.2
        story, done, after = go_wrong(waiting, kind, 0.0 if at_once else draw.random() * LONGEST)
        assert before.keys() <= after.keys(), f"{story}: lost"
        known = [before, wanted, {b"other": after.get(b"other", b"")} if kind.__name__.endswith("foreign_one") else {}]
        wrong = [path for path, digest in after.items() if digest not in {tree.get(path) for tree in known}]
        assert not wrong, f"{story}: {wrong}"
        assert not done or after == wanted, f"{story}: it was no success"
        if after != before:
            begin_again(waiting)
            assert content(waiting) == before


def go_wrong(home: OnDisk, kind: Wrong, delay: float) -> tuple[str, bool, dict[bytes, bytes]]:
    """Sync while something goes wrong; return what happened, whether it was told to be a success, and what the target has then."""
    timer = threading.Timer(delay, kind, [home])
    timer.start()
    ended = home.vault.sync()
    timer.join()
    put_right(home)
    wait_until_idle(home)
    story = f"{kind.__name__} after {delay:.3f} s: {ended.status} {ended.json.get('reason')}"
    assert ended.status == 0 or ended.json["outcome"] in {"failed", "held"}, story
    print(story)
    return story, ended.status == 0, content(home)


def begin_again(home: OnDisk) -> None:
    """Back to where every round begins."""
    home.vault.point_at(home.first)
    home.vault.without_limits()
    home.vault.synced("--allow-older")
    home.vault.edit(r'^max_delete = "100%"\nmax_change = "100%"\n', "")


def wait_until_idle(home: OnDisk) -> None:
    """If the source named another snapshot meanwhile, that one is synced at once."""
    while get(home.vault.path, VAULT_INTERFACE, "Job") != "/":
        if pid := int(shown(home.vault.unit, "MainPID")):
            wait_for_end(pid)
