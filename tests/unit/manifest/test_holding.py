# SPDX-License-Identifier: GPL-3.0-or-later
"""Limits: they hold what exceeds them, the manifest says what the target has, an approval releases just what was shown."""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from offsited.core.config import Limits
from offsited.core.limits import entries_allowed
from offsited.core.manifest import Row
from offsited.core.outcome import Reason
from offsited.core.plan import REPLACED, Change
from offsited.errors import JobFailed
from offsited.worker.holding import APPROVED_FILE, HELD_FILE, plan_of
from offsited.worker.ledger import LEDGER_FILE, Ledger
from offsited.worker.pending import Item

from .test_days import check, passing
from .workshop import UNLIMITED, Bench, Node, groups, remote_groups

STRICT = Limits(max_delete=0, max_change=0)
CHOICES = [
    STRICT,
    UNLIMITED,
    Limits(max_delete=0, max_change="100%"),
    Limits(max_delete="100%", max_change=0),
    Limits(max_delete=1, max_change=2),
]


@pytest.fixture
def top(tmp_path: Path) -> Path:
    path = tmp_path / "top"
    path.mkdir()
    return path


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    directory = tmp_path / "state"
    directory.mkdir()
    return Bench(directory)


def files(top: Path, count: int, prefix: str = "f", content: str = "x") -> list[Path]:
    found = [top / f"{prefix}{number:03}" for number in range(count)]
    for path in found:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content} {path.name}")
    return found


def holds_what_it_says(bench: Bench) -> None:
    """The target has what the manifest says, entry by entry, hard links included; but for what an interrupted run left open."""
    with Ledger.opened(bench.directory / LEDGER_FILE) as ledger:
        open_to_doubt = {doubt.path for doubt in ledger.doubts()}
    rows = {path: row for path, row in bench.rows().items() if not row.carried}
    nodes = bench.remote.nodes
    assert rows.keys() - open_to_doubt == nodes.keys() - open_to_doubt
    for path in rows.keys() - open_to_doubt:
        node, row = nodes[path], rows[path]
        assert (node.kind, node.size, node.mtime, node.mode) == (row.kind, row.size, row.mtime, row.mode), path
        if row.kind == "f":
            assert hashlib.sha256(node.content).digest() == row.sha256, path
    known = {path: row for path, row in rows.items() if path not in open_to_doubt}
    found = {group - open_to_doubt for group in remote_groups(bench.remote)}
    assert found >= {group for group in groups(known) if len(group) > 1}


def counted(plan: dict[bytes, Item], before: dict[bytes, Row]) -> tuple[set[bytes], set[bytes]]:
    """Paths that a plan takes away or replaces, by the definition in words."""
    unmoved = ~(Change.RENAMED | Change.NEW | Change.UNREADABLE)
    gone = {path for path, (change, row) in plan.items() if change & Change.GONE and change == change & unmoved and row.kind != "d"}
    replacing = {
        path for path, (change, _) in plan.items() if change & REPLACED and not change & (Change.NEW | Change.GONE | Change.UNREADABLE)
    }
    return gone, {path for path in replacing if before[path].kind != "d"}


def held(plan: dict[bytes, Item]) -> set[bytes]:
    return {path for path, item in plan.items() if item.change & Change.HELD}


def test_above_the_limit_deletions_are_held_and_additions_flow(top: Path, bench: Bench) -> None:
    old = files(top, 100)
    bench.sync(top)
    for path in old[:21]:
        path.unlink()
    old[50].write_text("changed")
    (top / "new").write_text("new")
    plan = bench.sync(top, limits=Limits())
    assert held(plan) == {os.fsencode(path.name) for path in old[:21]}
    assert bench.held.deleted_entries == 21
    assert bench.remote.nodes[b"f050"].content == b"changed"
    assert bench.remote.nodes[b"new"].content == b"new"
    holds_what_it_says(bench)
    bench.sync(top, limits=Limits(), approved=bench.held.plan)
    check(bench, top)
    assert not (bench.directory / HELD_FILE).exists()
    assert not (bench.directory / APPROVED_FILE).exists()


def test_within_the_limit_nothing_is_held(top: Path, bench: Bench) -> None:
    old = files(top, 100)
    bench.sync(top)
    for path in old[:20]:
        path.unlink()
    for path in old[20:80]:
        path.write_text("changed")
    bench.sync(top, limits=Limits())
    assert not bench.holding.verdict
    check(bench, top)


def test_changes_are_held_apart_from_deletions(top: Path, bench: Bench) -> None:
    old = files(top, 100)
    bench.sync(top)
    for path in old[:61]:
        path.write_text("ransom")
    old[99].unlink()
    plan = bench.sync(top, limits=Limits())
    assert held(plan) == {os.fsencode(path.name) for path in old[:61]}
    assert bench.held.changed_entries == 61
    assert b"f099" not in bench.remote.nodes
    holds_what_it_says(bench)
    again = bench.sync(top, limits=Limits())
    assert held(again) == held(plan)
    assert bench.held.plan == plan_of(bench.directory / HELD_FILE)


def test_a_directory_that_vanished_stays_whole_or_goes_whole(top: Path, bench: Bench) -> None:
    files(top / "gone", 30)
    files(top / "stays", 30)
    (top / "gone" / "f000").rename(top / "gone" / "moved")
    bench.sync(top)
    (top / "gone" / "moved").rename(top / "moved")
    shutil.rmtree(top / "gone")
    plan = bench.sync(top, limits=Limits())
    assert bench.held.deleted_entries == 30, "the one that was moved stays where it was until the others may go"
    assert held(plan) >= {b"gone", b"gone/f001", b"gone/moved"}
    assert bench.remote.nodes[b"moved"].content == bench.remote.nodes[b"gone/moved"].content
    holds_what_it_says(bench)
    bench.sync(top, limits=Limits(), approved=bench.held.plan)
    check(bench, top)


def test_a_directory_that_became_a_file_stays_one_while_its_files_are_held(top: Path, bench: Bench) -> None:
    files(top / "d", 30)
    bench.sync(top)
    shutil.rmtree(top / "d")
    (top / "d").symlink_to("/elsewhere")
    plan = bench.sync(top, limits=Limits())
    assert held(plan) >= {b"d", b"d/f000"}
    holds_what_it_says(bench)
    bench.sync(top, limits=Limits(), approved=bench.held.plan)
    check(bench, top)


def test_nothing_arrives_below_what_must_stay_a_file(top: Path, bench: Bench) -> None:
    old = files(top, 20)
    bench.sync(top)
    for path in old:
        path.unlink()
        path.mkdir()
        (path / "inside").write_text("new")
    plan = bench.sync(top, limits=STRICT)
    assert held(plan) >= {b"f000", b"f000/inside"}
    holds_what_it_says(bench)
    bench.sync(top, limits=STRICT, approved=bench.held.plan)
    check(bench, top)


def test_what_could_not_arrive_excuses_no_deletion(top: Path, bench: Bench) -> None:
    """A file was moved below something that is held: it is no rename, for it would be nowhere at the target."""
    old = files(top, 20)
    bench.sync(top)
    old[0].unlink()
    old[0].mkdir()
    old[1].rename(old[0] / "moved")
    bench.sync(top, limits=STRICT)
    assert b"f001" in bench.remote.nodes
    holds_what_it_says(bench)


def test_to_take_the_place_of_a_file_is_no_rename(top: Path, bench: Bench) -> None:
    """Of two files one is left: that is a deletion, whatever it is called afterwards."""
    old = files(top, 40)
    bench.sync(top)
    for one, other in zip(old[:20], old[20:], strict=True):
        one.rename(other)
    bench.sync(top, limits=Limits())
    assert bench.held.deleted_entries == 20
    holds_what_it_says(bench)


def test_renames_are_no_deletions(top: Path, bench: Bench) -> None:
    files(top / "photos" / "2025", 300)
    bench.sync(top)
    (top / "photos" / "2025").rename(top / "photos" / "old")
    bench.sync(top, limits=STRICT)
    assert not bench.holding.verdict
    check(bench, top)


def test_a_name_that_is_held_leaves_its_group_when_the_others_change(top: Path, bench: Bench) -> None:
    """They are one file at the target: a change of mode must not reach the name that is to stay as it is."""
    (top / "a").write_text("same")
    for name in ("b", "c", "d"):
        (top / name).hardlink_to(top / "a")
    bench.sync(top)
    for name in ("c", "d"):
        (top / name).unlink()
    (top / "a").chmod(0o600)
    bench.sync(top, limits=STRICT)
    assert bench.held.deleted_entries == 2
    assert bench.remote.nodes[b"c"].mode != bench.remote.nodes[b"a"].mode
    assert remote_groups(bench.remote) == {frozenset((b"a", b"b")), frozenset((b"c", b"d"))} == groups(bench.rows())
    holds_what_it_says(bench)


# --- approvals -----------------------------------------------------------------------------------------------------


@pytest.fixture
def waiting(top: Path, bench: Bench) -> str:
    """A hundred files, thirty of them gone, which is held; its id."""
    old = files(top, 100)
    bench.sync(top)
    for path in old[:30]:
        path.unlink()
    bench.sync(top, limits=Limits())
    return bench.held.plan


def test_what_was_approved_covers_a_smaller_plan_after_a_run_that_failed(top: Path, bench: Bench, waiting: str) -> None:
    bench.sync(top, limits=Limits(), approved=waiting, cut=3)
    (top / "f000").write_text("x f000")
    bench.sync(top, limits=Limits())
    assert not bench.holding.verdict
    check(bench, top)


def test_a_larger_plan_asks_again(top: Path, bench: Bench, waiting: str) -> None:
    bench.sync(top, limits=Limits(), approved=waiting, cut=3)
    (top / "f050").unlink()
    plan = bench.sync(top, limits=Limits())
    assert bench.held.deleted_entries == 31
    assert bench.held.plan != waiting
    assert len(held(plan)) == 31
    holds_what_it_says(bench)


def test_another_plan_of_the_same_size_asks_again(top: Path, bench: Bench, waiting: str) -> None:
    bench.sync(top, limits=Limits(), approved=waiting, cut=3)
    (top / "f000").write_text("x f000")
    (top / "f050").unlink()
    bench.sync(top, limits=Limits())
    assert bench.held.deleted_entries == 30
    holds_what_it_says(bench)


def test_another_content_of_the_same_file_asks_again(top: Path, bench: Bench) -> None:
    old = files(top, 30)
    bench.sync(top)
    for path in old:
        path.write_text("changed")
    bench.sync(top, limits=Limits())
    bench.sync(top, limits=Limits(), approved=bench.held.plan, cut=0)
    old[7].write_text("changed once more")
    bench.sync(top, limits=Limits())
    assert bench.held.changed_entries == 30


def test_an_approval_ends_with_the_sync_that_used_it(top: Path, bench: Bench, waiting: str) -> None:
    bench.sync(top, limits=Limits(), approved=waiting)
    files(top, 30)
    bench.sync(top, limits=Limits())
    for path in files(top, 30):
        path.unlink()
    bench.sync(top, limits=Limits())
    assert bench.held.deleted_entries == 30


@pytest.mark.parametrize("plan", ["", "0123456789ab"])
def test_what_is_not_held_cannot_be_approved(top: Path, bench: Bench, waiting: str, plan: str) -> None:
    with pytest.raises(JobFailed) as refused:
        bench.holding.approve(plan)
    assert refused.value.reason == Reason.PLAN_REPLACED
    bench.sync(top, limits=Limits())
    assert bench.held.plan == waiting


def test_approved_twice_is_refused(top: Path, bench: Bench, waiting: str) -> None:
    bench.sync(top, limits=Limits(), approved=waiting)
    with pytest.raises(JobFailed):
        bench.holding.approve(waiting)


@pytest.mark.parametrize("content", [b"", b"no database" * 500])
def test_a_damaged_approval_approves_nothing(top: Path, bench: Bench, waiting: str, content: bytes) -> None:
    (bench.directory / APPROVED_FILE).write_bytes(content)
    bench.sync(top, limits=Limits())
    assert bench.held.plan == waiting


# --- whatever happens ----------------------------------------------------------------------------------------------


def live(directory: Path, seed: int, days: int) -> None:
    """Some days with limits as they come. A third of the runs are cut off, some held sets are approved, some change meanwhile."""
    (directory / "state").mkdir()
    bench = Bench(directory / "state")
    for chance, top in passing(directory, seed, days):
        limits = chance.choice(CHOICES)
        old, before = dict(bench.remote.nodes), bench.rows()
        doubtful = bench.in_doubt()
        if chance.random() < 1 / 3:
            bench.sync(top, cut=chance.randrange(12), limits=limits)
        else:
            plan = bench.sync(top, limits=limits)
            holds_what_it_says(bench)
            if not doubtful:
                _is_exact(bench, plan, limits, before, old)
            if bench.holding.verdict and chance.random() < 0.5:
                bench.sync(top, limits=limits, approved=bench.held.plan)
                check(bench, top)
    bench.sync(top, limits=UNLIMITED)
    check(bench, top)


def _is_exact(bench: Bench, plan: dict[bytes, Item], limits: Limits, before: dict[bytes, Row], old: dict[bytes, Node]) -> None:
    """What is held is what exceeds, and what has to stay with it; that is at the target as it was."""
    verdict = bench.holding.verdict
    gone, replaced = counted(plan, before)
    files = sum(row.kind != "d" for row in before.values())
    assert verdict.deletions == (len(gone) > entries_allowed(limits.max_delete, files))
    assert verdict.changes == (len(replaced) > entries_allowed(limits.max_change, files))
    wanted = (gone if verdict.deletions else set()) | (replaced if verdict.changes else set())
    assert wanted <= held(plan)
    assert verdict or held(plan) == set()
    assert all(bench.remote.nodes[path].content == old[path].content for path in wanted if path in old)


@settings(max_examples=int(os.environ.get("OFFSITED_DAYS", "40")), deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 1 << 32))
def test_whatever_happens_nothing_is_lost_without_approval(seed: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        live(Path(directory), seed, days=8)
