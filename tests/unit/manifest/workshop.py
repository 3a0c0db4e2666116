# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of the manifest share: a target as rsync keeps it, a sync as a transport does it, an independent look at a tree."""

import hashlib
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import offsited
from offsited.core.config import Limits
from offsited.core.manifest import Header, Row, SegmentFile
from offsited.core.plan import KEPT_BACK, REPLACED, Change, Changes
from offsited.core.record import Held
from offsited.worker import segments, survey
from offsited.worker.compare import recognise_renames
from offsited.worker.holding import Holding
from offsited.worker.ledger import LEDGER_FILE, Ledger
from offsited.worker.outgoing import travels
from offsited.worker.pending import PENDING_FILE, WAS_DIRECTORY, Item, Pending
from offsited.worker.survey import Request, Told

PROJECT = str(Path(offsited.__file__).parent.parent)
_RUN = f"import sys; sys.path.insert(0, {PROJECT!r}); from offsited.worker import survey; sys.exit(survey.main())"
PROGRAM = (sys.executable, "-I", "-c", _RUN)
"""The survey as the worker runs it, where the package is not installed."""

UNLIMITED = Limits(max_delete="100%", max_change="100%")
KINDS = {stat.S_IFREG: "f", stat.S_IFDIR: "d", stat.S_IFLNK: "l", stat.S_IFIFO: "p"}


@dataclass
class Node:
    """An inode at the target."""

    kind: str
    size: int
    mtime: int
    mode: int
    content: bytes

    @classmethod
    def of(cls, path: bytes) -> "Node":
        status = os.lstat(path)
        kind = KINDS[stat.S_IFMT(status.st_mode)]
        content = Path(os.fsdecode(path)).read_bytes() if kind == "f" else os.readlink(path) if kind == "l" else b""
        return cls(kind, status.st_size if kind == "f" else 0, status.st_mtime_ns, stat.S_IMODE(status.st_mode), content)


@dataclass
class Remote:
    """A target: paths and what they are, two paths of one file being one node. It changes as rsync changes it, flaws included."""

    nodes: dict[bytes, Node] = field(default_factory=dict)
    steps_left: int = -1
    """Steps until it is cut off; -1 = never."""

    def steps(self, top: bytes, pending: Pending) -> Iterator[None]:
        """Do what a plan says, one entry after the other."""
        for item in replaced_directories(pending):
            self._remove(item.row.path)
            yield
        for item in pending.again():
            self.nodes[item.row.path] = Node.of(os.path.join(top, item.row.path))
            yield
        for item in pending.to_send():
            self._send(top, item)
            yield
        for paths in pending.link_groups():
            group = [path for path in paths if (member := pending.item(path)) and travels(member)]
            for path in group[1:]:
                self.nodes[path] = self.nodes[group[0]]
                yield
        for item in pending.deletions():
            self._remove(item.row.path)
            yield

    def _send(self, top: bytes, item: Item) -> None:
        """rsync's quick check: of the same size and mtime only the attributes change, and they change for all names of a node.

        A symbolic link that leads elsewhere is made anew.
        """
        path = item.row.path
        new, old = Node.of(os.path.join(top, path)), self.nodes.get(path)
        parent = os.path.dirname(path)
        assert path == b"" or (parent in self.nodes and self.nodes[parent].kind == "d"), "sent below what is no directory"
        alike = {"f": (new.size, new.mtime), "l": (new.content,)}.get(new.kind, ())
        known = old and {"f": (old.size, old.mtime), "l": (old.content,)}.get(new.kind, ())
        if old and old.kind == new.kind and alike == known:
            old.mode, old.mtime = new.mode, new.mtime
        else:
            assert not (old and old.kind == "d"), "a directory is in the way"
            self.nodes[path] = new

    def _remove(self, path: bytes) -> None:
        for found in [found for found in self.nodes if found == path or found.startswith(path + b"/")]:
            del self.nodes[found]


@dataclass
class Bench:
    """A ledger with its segments, and the target that they speak of."""

    directory: Path
    remote: Remote = field(default_factory=Remote)
    segments: tuple[SegmentFile, ...] = ()
    job: int = 0
    told: list[Told] = field(default_factory=list)
    holding: Holding = field(init=False)
    """Of the last sync."""

    @property
    def held(self) -> Held:
        """What the last sync held."""
        assert self.holding.held is not None
        return self.holding.held

    def survey(self, top: Path, exclude: tuple[str, ...] = (), *, thorough: bool = False, processes: int = 1) -> Told:
        self.told.clear()
        survey.survey(Request(str(top), str(self.directory), exclude, thorough, processes), self.told.append)
        return self.told[-1]

    def plan(self) -> "Opened":
        return Opened(self.directory)

    def sync(
        self,
        top: Path,
        exclude: tuple[str, ...] = (),
        *,
        cut: int | None = None,
        thorough: bool = False,
        limits: Limits | None = None,
        approved: str = "",
    ) -> dict[bytes, Item]:
        """Bring the target to a snapshot, as far as limits allow; `cut`: stop after so many steps at the target. Return the plan."""
        self.survey(top, exclude, thorough=thorough)
        with self.plan() as (ledger, pending):
            self.holding = Holding(pending, limits or UNLIMITED, self.directory)
            if approved:
                self.holding.approve(approved)
            found = self._carry_out(os.fsencode(top), ledger, pending, cut)
            if cut is None:
                self.holding.conclude()
            return found

    def _carry_out(self, top: bytes, ledger: Ledger, pending: Pending, cut: int | None) -> dict[bytes, Item]:
        for item in pending.to_compare():
            pending.set_hash(item.row.path, digest(top, item.row.path))
        recognise_renames(pending)
        self.holding.settle()
        found = {item.row.path: item for item in pending.select("1")}
        if pending.is_empty:
            pending.commit(ledger.commit_digest)
            return found
        ledger.doubt(pending.doubts())
        for number, _ in enumerate(self.remote.steps(top, pending)):
            if number == cut:
                return found
        for item in to_hash(pending):
            pending.set_hash(item.row.path, digest(top, item.row.path))
        self.job += 1
        before = self.segments
        self.segments = segments.append(self.directory, before, Header("v", "t", self.job), pending.lines())
        pending.commit(f"commit {self.job}")
        for old in set(before) - set(self.segments):
            (self.directory / old.name).unlink()
        return found

    def in_doubt(self) -> bool:
        """Whether a run was cut off since the last commit."""
        with Ledger.opened(self.directory / LEDGER_FILE) as ledger:
            return any(True for _ in ledger.doubts())

    def rows(self) -> dict[bytes, Row]:
        """What the ledger says, without what only it knows."""
        with Ledger.opened(self.directory / LEDGER_FILE) as ledger:
            return {row.path: row._replace(inode=0) for row in ledger.rows()}

    def listed(self) -> dict[bytes, Row]:
        """What the segments say."""
        return {row.path: row for row in segments.listed(self.directory, self.segments)}


@dataclass
class Opened:
    """The ledger and the plan that was made last, as a context."""

    directory: Path

    def __enter__(self) -> tuple[Ledger, Pending]:
        self._ledger = Ledger(self.directory / LEDGER_FILE)
        self._pending = Pending(self._ledger, self.directory / PENDING_FILE, fresh=False)
        return self._ledger, self._pending

    def __exit__(self, *_: object) -> None:
        self._ledger.close()


def program(bench: Bench, top: Path, *before: str, exclude: tuple[str, ...] = ()) -> Told:
    """The survey as the worker runs it: a program."""
    request = Request(str(top), str(bench.directory), exclude)
    ran = subprocess.run([*before, *PROGRAM], input=request.encode(), stdout=subprocess.PIPE, check=False)
    told = Told.decode(ran.stdout.decode().splitlines()[-1])
    assert (ran.returncode == 0) == told.done
    return told


def without_capabilities() -> tuple[str, ...]:
    """As root who may read only what root's permissions let him."""
    return "setpriv", "--bounding-set=-all", "--inh-caps=-all"


def digest(top: bytes, path: bytes) -> bytes:
    with open(os.path.join(top, path), "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def seen(top: Path) -> dict[bytes, Row]:
    """What a tree holds, found by other means than the walk's; groups have the number 1."""
    base = os.fsencode(top)
    paths = [base]
    for directory, directories, files in os.walk(base):
        paths += [os.path.join(directory, name) for name in directories + files]
    found = {b"" if path == base else path[len(base) + 1 :]: _row(path) for path in paths}
    inodes = [os.lstat(path).st_ino for path in paths if not stat.S_ISDIR(os.lstat(path).st_mode)]
    return {
        path: row._replace(path=path, link=int(row.kind != "d" and inodes.count(os.lstat(os.path.join(base, path)).st_ino) > 1))
        for path, row in found.items()
    }


def _row(path: bytes) -> Row:
    status, node = os.lstat(path), Node.of(path)
    return Row(
        b"",
        node.kind,
        node.mode,
        status.st_uid,
        status.st_gid,
        node.size,
        node.mtime,
        target=node.content if node.kind == "l" else b"",
        xattrs=tuple(sorted((name, os.getxattr(path, name, follow_symlinks=False)) for name in os.listxattr(path, follow_symlinks=False))),
        sha256=hashlib.sha256(node.content).digest() if node.kind == "f" else b"",
    )


def without_numbers(rows: dict[bytes, Row]) -> dict[bytes, Row]:
    """Which number a group has is its own affair."""
    return {path: row._replace(link=int(row.link > 0)) for path, row in rows.items()}


def groups(rows: dict[bytes, Row]) -> set[frozenset[bytes]]:
    """The hard-link groups that rows tell of."""
    return {frozenset(path for path, row in rows.items() if row.link == number) for number in {row.link for row in rows.values()} - {0}}


def groups_on_disk(top: Path) -> set[frozenset[bytes]]:
    base = os.fsencode(top)
    inodes = {path: os.lstat(os.path.join(base, path)).st_ino for path, row in seen(top).items() if row.kind != "d"}
    found = (frozenset(path for path, inode in inodes.items() if inode == wanted) for wanted in inodes.values())
    return {group for group in found if len(group) > 1}


def remote_groups(remote: Remote) -> set[frozenset[bytes]]:
    found = (frozenset(path for path, node in remote.nodes.items() if node is wanted) for wanted in remote.nodes.values())
    return {group for group in found if len(group) > 1}


def replaced_directories(pending: Pending) -> Iterator[Item]:
    """What is no directory any more, where the target still has one in its way."""
    was = f"(change & {Change.DOUBTFUL} OR {WAS_DIRECTORY})"
    return pending.select(f"change & {Change.KIND} AND NOT change & {KEPT_BACK} AND kind != 'd' AND {was}")


def to_hash(pending: Pending) -> Iterator[Item]:
    """Files whose hash is not known: what a transport hashes while it sends them."""
    return pending.select(f"kind = 'f' AND sha256 = x'' AND change & {REPLACED} AND NOT change & {KEPT_BACK}")


def changes(plan: dict[bytes, Item]) -> dict[bytes, Changes]:
    """How each path changes."""
    return {path: item.change for path, item in plan.items()}
