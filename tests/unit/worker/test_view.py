# SPDX-License-Identifier: GPL-3.0-or-later
"""gocryptfs as a supervised child, with the real program: what it shows, how it fails, that its death ends what is done in it."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from offsited import names
from offsited.core import gocryptfs
from offsited.core.outcome import Reason
from offsited.errors import JobFailed
from offsited.store import VaultFiles
from offsited.worker import mounts, process, view
from offsited.worker.view import View

from .conftest import TOOLS, run
from .machine import memfd

LENGTHS = (1, 15, 16, 175, 176, 177, 200, 255)


def reverse(files: VaultFiles, point: Path, *, exclude: Path | None = None) -> list[str]:
    control = point.with_name("control")
    return gocryptfs.reverse_mount(TOOLS.gocryptfs, files.plain, point, control=control, notify=os.getpid(), exclude=exclude)


@asynccontextmanager
async def shown(files: VaultFiles, point: Path, key: int, exclude: Path | None = None) -> AsyncIterator[View]:
    async with view.mounted(reverse(files, point, exclude=exclude), point, gocryptfs.REVERSE_FILE_SYSTEM, key=key) as mounted:
        yield mounted


def failure(command: list[str], point: Path, key: int, file_system: str = gocryptfs.REVERSE_FILE_SYSTEM) -> str:
    async def work() -> None:
        async with view.mounted(command, point, file_system, key=key):
            pass

    with pytest.raises(JobFailed) as caught:
        run(work())
    return caught.value.reason


def test_require_takes_the_installed_one() -> None:
    run(view.require(TOOLS.gocryptfs))


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 'gocryptfs 2.5.0; go-fuse 2.5.0'", Reason.GOCRYPTFS_TOO_OLD),
        ("echo 'gocryptfs 2.3; go-fuse'", Reason.GOCRYPTFS_TOO_OLD),
        ("echo gocryptfs", Reason.GOCRYPTFS_MISSING),
        ("exit 1", Reason.GOCRYPTFS_MISSING),
        (None, Reason.GOCRYPTFS_MISSING),
    ],
)
def test_require_refuses(tmp_path: Path, script: str | None, reason: Reason) -> None:
    tool = tmp_path / "gocryptfs"
    if script:
        tool.write_text(f"#!/bin/sh\n{script}\n")
        tool.chmod(0o700)
    with pytest.raises(JobFailed) as caught:
        run(view.require(str(tool)))
    assert caught.value.reason == reason


def test_the_view_is_there_within_the_block_alone(mountable: Path, files: VaultFiles, key: int) -> None:
    point = mountable / "view"
    (files.plain / names.BACKUP_DIR / "file").write_bytes(b"x" * 5000)

    async def work() -> list[str]:
        async with shown(files, point, key) as mounted:
            found = mounts.find(point)
            assert found is not None
            assert found.file_system == gocryptfs.REVERSE_FILE_SYSTEM
            encrypted = await view.encrypt_path(point.with_name("control"), f"{names.BACKUP_DIR}/file")
            assert (await mounted.look((point / encrypted).stat)).st_size == gocryptfs.sealed_size(5000)
            return await mounted.look(lambda: os.listdir(point))

    listed = run(work())
    assert {names.TARGET_KEY_FILE, names.DIRIV_FILE} <= set(listed)
    assert len(listed) == 4
    assert mounts.find(point) is None


def test_a_passphrase_serves_two_mounts_after_each_other(mountable: Path, files: VaultFiles, key: int) -> None:
    """A restore needs two; each gocryptfs opens standard input anew."""

    async def work() -> None:
        for name in ("one", "two"):
            async with shown(files, mountable / name, key):
                pass
            (mountable / "control").unlink(missing_ok=True)

    run(work())


def test_companions_and_inodes_are_as_computed(mountable: Path, files: VaultFiles, key: int) -> None:
    """Long names from 176 bytes on, an IV in each directory, inode numbers of the plain tree in the lower 48 bits."""
    backup = files.plain / names.BACKUP_DIR
    for length in LENGTHS:
        (backup / ("f" * length)).write_bytes(b"x" * length)
        (backup / ("d" * length) / "sub").mkdir(parents=True)

    async def work() -> tuple[dict[str, str], dict[str, int], dict[str, int]]:
        async with shown(files, mountable / "view", key):
            paths = [str(path.relative_to(files.plain)) for path in backup.rglob("*")]
            control = mountable / "control"
            encrypted = {path: await view.encrypt_path(control, path) for path in paths}
            listed = list((mountable / "view").rglob("*"))
            sizes = {str(path.relative_to(mountable / "view")): path.lstat().st_size for path in listed if path.is_file()}
            inodes = {str(path.relative_to(mountable / "view")): path.lstat().st_ino for path in listed}
            return encrypted, sizes, inodes

    encrypted, sizes, inodes = run(work())
    needed = {companion for path in encrypted.values() for companion in gocryptfs.companions(path)}
    assert {path for path in inodes if gocryptfs.is_companion(path.encode())} >= needed
    for plain, path in encrypted.items():
        status = (files.plain / plain).lstat()
        assert inodes[path] & gocryptfs.INODE_BITS == status.st_ino & gocryptfs.INODE_BITS
        assert (f"{path}.name" in inodes) is (len(Path(plain).name) >= gocryptfs.LONG_NAME)
        if path in sizes:
            assert sizes[path] == gocryptfs.sealed_size(status.st_size)
    assert not any(gocryptfs.is_companion(path.encode()) for path in encrypted.values())


TREE = ("top", "a/top", "var/cache/x", "a/var/cache/x", "keep.tmp", "drop.tmp", "a/drop.tmp", ".cache/x", "a/.cache/x", "a/b/c")


@pytest.mark.parametrize(
    ("patterns", "gone"),
    [
        (("/top",), {"top"}),
        (("top",), {"top", "a/top"}),
        (("var/cache",), {"var/cache", "var/cache/x"}),
        (("/var/cache",), {"var/cache", "var/cache/x"}),
        (("**/var/cache",), {"var/cache", "var/cache/x", "a/var/cache", "a/var/cache/x"}),
        ((".cache",), {".cache", ".cache/x", "a/.cache", "a/.cache/x"}),
        (("*.tmp", "!keep.tmp"), {"drop.tmp", "a/drop.tmp"}),
        (("a/*/c",), {"a/b/c"}),
        (("nothing",), set()),
    ],
)
def test_what_patterns_leave_out(mountable: Path, files: VaultFiles, key: int, patterns: tuple[str, ...], gone: set[str]) -> None:
    """gitignore(5), as gocryptfs itself takes it."""
    backup = files.plain / names.BACKUP_DIR
    for name in TREE:
        (backup / name).parent.mkdir(parents=True, exist_ok=True)
        (backup / name).touch()
    exclude = mountable / "exclude"
    exclude.write_bytes(gocryptfs.exclude_lines(patterns))
    everything = {str(path.relative_to(backup)) for path in backup.rglob("*")}
    assert everything - _visible(mountable, files, key, exclude) == gone


@pytest.mark.parametrize("pattern", ["**/.cache/", ".cache/"])
def test_a_slash_at_the_end_leaves_a_directory_empty(mountable: Path, files: VaultFiles, key: int, pattern: str) -> None:
    backup = files.plain / names.BACKUP_DIR
    (backup / "a/.cache/x").mkdir(parents=True)
    exclude = mountable / "exclude"
    exclude.write_bytes(gocryptfs.exclude_lines((pattern,)))
    assert _visible(mountable, files, key, exclude) == {"a", "a/.cache"}


def _visible(mountable: Path, files: VaultFiles, key: int, exclude: Path) -> set[str]:
    backup = files.plain / names.BACKUP_DIR

    async def work() -> set[str]:
        async with shown(files, mountable / "view", key, exclude):
            return set(await asyncio.to_thread(_seen_through, mountable / "view", backup))

    return run(work())


def _seen_through(point: Path, backup: Path) -> Iterable[str]:
    """Those entries of the backup whose inode numbers the view shows."""
    seen = {path.lstat().st_ino & gocryptfs.INODE_BITS for path in point.rglob("*")}
    return [str(path.relative_to(backup)) for path in backup.rglob("*") if path.lstat().st_ino & gocryptfs.INODE_BITS in seen]


def test_a_forward_mount_shows_the_tree_in_clear_and_takes_nothing(mountable: Path, files: VaultFiles, key: int) -> None:
    (files.plain / names.BACKUP_DIR / "file").write_text("hello")
    sealed, clear = mountable / "sealed", mountable / "clear"

    async def work() -> str:
        async with shown(files, mountable / "view", key):
            assert (await process.run(["cp", "-a", str(mountable / "view"), str(sealed)])).status == 0
        command = gocryptfs.forward_mount(TOOLS.gocryptfs, str(sealed), clear, key_file=files.key_file, notify=os.getpid())
        async with view.mounted(command, clear, gocryptfs.FORWARD_FILE_SYSTEM, key=key):
            with pytest.raises(OSError, match="Read-only"):
                (clear / "new").touch()
            return (clear / names.BACKUP_DIR / "file").read_text()

    assert run(work()) == "hello"


@pytest.mark.parametrize(("passphrase", "reason"), [(b"wrong", Reason.WRONG_PASSPHRASE), (b"", Reason.LOCKED), (b"\n", Reason.LOCKED)])
def test_a_passphrase_that_does_not_open_it(mountable: Path, files: VaultFiles, passphrase: bytes, reason: Reason) -> None:
    assert failure(reverse(files, mountable / "view"), mountable / "view", memfd(passphrase)) == reason


@pytest.mark.parametrize("content", [None, b"", b"{}", b"not json"])
def test_a_key_file_that_is_no_good(mountable: Path, files: VaultFiles, key: int, content: bytes | None) -> None:
    files.key_file.unlink()
    if content is not None:
        files.key_file.write_bytes(content)
    assert failure(reverse(files, mountable / "view"), mountable / "view", key) == Reason.KEY_FILE_DAMAGED


def test_a_tree_that_is_not_there(mountable: Path, files: VaultFiles, key: int) -> None:
    command = [word.replace(str(files.plain), str(mountable / "missing")) for word in reverse(files, mountable / "view")]
    assert failure(command, mountable / "view", key) == Reason.GOCRYPTFS_FAILED


def test_a_pattern_file_that_is_not_there(mountable: Path, files: VaultFiles, key: int) -> None:
    assert failure(reverse(files, mountable / "view", exclude=mountable / "missing"), mountable / "view", key) == Reason.CONFIG_INVALID


def test_another_file_system_than_the_one_wanted(mountable: Path, files: VaultFiles, key: int) -> None:
    assert failure(reverse(files, mountable / "view"), mountable / "view", key, gocryptfs.FORWARD_FILE_SYSTEM) == Reason.GOCRYPTFS_FAILED


def test_a_program_that_is_not_there(mountable: Path, files: VaultFiles, key: int) -> None:
    command = ["/nowhere/gocryptfs", *reverse(files, mountable / "view")[1:]]
    assert failure(command, mountable / "view", key) == Reason.GOCRYPTFS_MISSING


def test_a_program_that_says_ready_and_has_mounted_nothing(mountable: Path, key: int) -> None:
    command = ["/bin/sh", "-c", f"kill -USR1 {os.getpid()}; exec sleep 1000"]
    assert failure(command, mountable / "view", key) == Reason.GOCRYPTFS_FAILED


def test_a_program_that_never_says_ready(mountable: Path, key: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "_READY_WITHIN", 0.2)
    assert failure(["/bin/sleep", "1000"], mountable / "view", key) == Reason.GOCRYPTFS_FAILED


def test_a_mount_that_answers_counts_though_nothing_was_said(mountable: Path, files: VaultFiles, key: int) -> None:
    """gocryptfs was seen to serve a mount, on a loaded machine, and never to say so: the signal goes to somebody else here."""
    point = mountable / "view"
    command = [word if not word.startswith("-notifypid=") else "-notifypid=0" for word in reverse(files, point)]

    async def work() -> list[str]:
        async with view.mounted(command, point, gocryptfs.REVERSE_FILE_SYSTEM, key=key):
            return os.listdir(point)

    assert run(work())


def test_the_death_of_gocryptfs_ends_the_work(mountable: Path, files: VaultFiles, key: int) -> None:
    ended = asyncio.Event()

    async def for_ever(mounted: View) -> None:
        try:
            os.kill(mounted._child._transport.get_pid(), signal.SIGKILL)
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def work() -> None:
        async with shown(files, mountable / "view", key) as mounted:
            await mounted.guard(for_ever(mounted))

    with pytest.raises(JobFailed) as caught:
        run(work())
    assert caught.value.reason == Reason.VIEW_DIED
    assert ended.is_set()


def test_work_that_fails_for_the_death_of_gocryptfs_says_so(mountable: Path, files: VaultFiles, key: int) -> None:
    """rsync's complaint comes first; what it saw is not to be trusted."""

    async def fails(mounted: View) -> None:
        os.kill(mounted._child._transport.get_pid(), signal.SIGKILL)
        raise JobFailed(Reason.RSYNC_PARTIAL)

    async def work() -> None:
        async with shown(files, mountable / "view", key) as mounted:
            await mounted.guard(fails(mounted))

    with pytest.raises(JobFailed) as caught:
        run(work())
    assert caught.value.reason == Reason.VIEW_DIED


def test_work_that_fails_for_itself_says_so(mountable: Path, files: VaultFiles, key: int) -> None:
    async def fails() -> None:
        raise JobFailed(Reason.RSYNC_PARTIAL)

    async def work() -> None:
        async with shown(files, mountable / "view", key) as mounted:
            await mounted.guard(fails())

    with pytest.raises(JobFailed) as caught:
        run(work())
    assert caught.value.reason == Reason.RSYNC_PARTIAL
    assert mounts.find(mountable / "view") is None


def test_a_cancelled_job_ends_work_and_mount(mountable: Path, files: VaultFiles, key: int) -> None:
    async def work() -> None:
        begun, ended = asyncio.Event(), asyncio.Event()
        views: list[View] = []

        async def for_ever() -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        async def job() -> None:
            async with shown(files, mountable / "view", key) as mounted:
                views.append(mounted)
                await mounted.guard(for_ever())

        task = asyncio.create_task(job())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended.is_set()
        assert not views[0]._child.running

    run(work())


def test_a_view_that_does_not_answer_ends_the_job(mountable: Path, files: VaultFiles, key: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """gocryptfs is stopped; it is killed in the end, which frees whoever waits for it."""
    monkeypatch.setattr(view, "_ANSWER_WITHIN", 0.3)
    monkeypatch.setattr(process, "GRACE", 0.3)

    async def work() -> None:
        async with shown(files, mountable / "view", key) as mounted:
            pid = mounted._child._transport.get_pid()
            os.kill(pid, signal.SIGSTOP)
            await asyncio.to_thread(os.waitid, os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
            await mounted.guard(mounted.look(lambda: os.listdir(mountable / "view")))

    with pytest.raises(JobFailed) as caught:
        run(work())
    assert caught.value.reason == Reason.VIEW_WRONG


@pytest.mark.parametrize("answer", [b"", b"not json\n", b"{}\n", b'{"ErrNo": 2, "ErrText": "no"}\n', b"[]\n", None])
def test_a_control_socket_that_gives_no_path(tmp_path: Path, answer: bytes | None) -> None:
    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(answer or b"")
        writer.close()

    async def work() -> None:
        if answer is None:
            await view.encrypt_path(tmp_path / "socket", "a")
            return
        async with await asyncio.start_unix_server(reply, tmp_path / "socket"):
            await view.encrypt_path(tmp_path / "socket", "a")

    with pytest.raises(JobFailed) as caught:
        run(work())
    assert caught.value.reason == Reason.GOCRYPTFS_FAILED


def test_one_that_is_ended_at_any_moment_of_its_beginning(mountable: Path, files: VaultFiles, key: int) -> None:
    """It asks its own mount something before it is ready: killed then, as 20 of 300 were, it waited for its own answer for ever."""

    async def begin_and_end(point: Path, later: float) -> None:
        mounting = view.mounted(reverse(files, point), point, gocryptfs.REVERSE_FILE_SYSTEM, key=key)
        beginning = asyncio.create_task(mounting.__aenter__())
        while mounts.find(point) is None:  # noqa: ASYNC110 - the kernel sends no event
            await asyncio.sleep(0)
        time.sleep(later)  # noqa: ASYNC251 - to the tenth of a millisecond
        beginning.cancel()
        await asyncio.wait({beginning}, timeout=30)
        ended = beginning.done()
        mounts.abort(point)  # else these tests would not end either
        assert ended, later
        if not beginning.cancelled():
            await mounting.__aexit__(None, None, None)
        assert mounts.find(point) is None

    async def work() -> None:
        for number in range(60):
            os.lseek(key, 0, os.SEEK_SET)
            await begin_and_end(mountable / f"view-{number}", number / 60_000)

    run(work())
