# SPDX-License-Identifier: GPL-3.0-or-later
"""gocryptfs as a supervised child, with the real program: what it shows, how it fails, that its death ends what is done in it."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from offsited import names
from offsited.core import gocryptfs
from offsited.core.outcome import Reason
from offsited.errors import JobFailed
from offsited.store import VaultFiles
from offsited.worker import mounts, process, view
from offsited.worker.job import Job
from offsited.worker.sealed_paths import SealedPaths
from offsited.worker.view import View

from .conftest import TOOLS, run
from .machine import memfd

LENGTHS = (1, 15, 16, 175, 176, 177, 200, 255)


def reverse(files: VaultFiles, point: Path) -> list[str]:
    control = point.with_name("control")
    return gocryptfs.reverse_mount(TOOLS.gocryptfs, files.plain, point, control=control, notify=os.getpid())


@asynccontextmanager
async def shown(files: VaultFiles, point: Path, key: int) -> AsyncIterator[View]:
    async with view.mounted(reverse(files, point), point, gocryptfs.REVERSE_FILE_SYSTEM, key=key) as mounted:
        yield mounted


def pid_of(mounted: View) -> int:
    assert mounted._running is not None
    return mounted._running[0]._transport.get_pid()


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


def test_the_view_is_there_within_the_block_alone(mountable: Path, job: Job, files: VaultFiles, key: int) -> None:
    point = mountable / "view"
    (files.plain / names.BACKUP_DIR / "file").write_bytes(b"x" * 5000)

    async def work() -> list[str]:
        async with shown(files, point, key) as mounted:
            found = mounts.find(point)
            assert found is not None
            assert found.file_system == gocryptfs.REVERSE_FILE_SYSTEM
            (encrypted,) = await SealedPaths(job, point.with_name("control")).of([f"{names.BACKUP_DIR}/file".encode()])
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


def test_companions_and_inodes_are_as_computed(mountable: Path, job: Job, files: VaultFiles, key: int) -> None:
    """Long names from 176 bytes on, an IV in each directory, inode numbers of the plain tree in the lower 48 bits."""
    backup = files.plain / names.BACKUP_DIR
    for length in LENGTHS:
        (backup / ("f" * length)).write_bytes(b"x" * length)
        (backup / ("d" * length) / "sub").mkdir(parents=True)

    async def work() -> tuple[dict[str, str], dict[str, int], dict[str, int]]:
        async with shown(files, mountable / "view", key):
            paths = [str(path.relative_to(files.plain)) for path in backup.rglob("*")]
            encrypted = dict(zip(paths, await SealedPaths(job, mountable / "control").of([path.encode() for path in paths]), strict=True))
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


def test_another_file_system_than_the_one_wanted(mountable: Path, files: VaultFiles, key: int) -> None:
    assert failure(reverse(files, mountable / "view"), mountable / "view", key, gocryptfs.FORWARD_FILE_SYSTEM) == Reason.GOCRYPTFS_FAILED


def test_a_program_that_is_not_there(mountable: Path, files: VaultFiles, key: int) -> None:
    command = ["/nowhere/gocryptfs", *reverse(files, mountable / "view")[1:]]
    assert failure(command, mountable / "view", key) == Reason.GOCRYPTFS_MISSING


def test_a_program_that_says_ready_and_has_mounted_nothing(mountable: Path, key: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "_READY_WITHIN", 1)
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
            os.kill(pid_of(mounted), signal.SIGKILL)
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
        os.kill(pid_of(mounted), signal.SIGKILL)
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
        pids: list[int] = []

        async def for_ever() -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        async def job() -> None:
            async with shown(files, mountable / "view", key) as mounted:
                pids.append(pid_of(mounted))
                await mounted.guard(for_ever())

        task = asyncio.create_task(job())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended.is_set()
        with pytest.raises(ProcessLookupError):
            os.kill(pids[0], 0)

    run(work())


def test_a_view_that_does_not_answer_ends_the_job(mountable: Path, files: VaultFiles, key: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """gocryptfs is stopped; it is killed in the end, which frees whoever waits for it."""
    monkeypatch.setattr(view, "_ANSWER_WITHIN", 0.3)
    monkeypatch.setattr(process, "GRACE", 0.3)

    async def work() -> None:
        async with shown(files, mountable / "view", key) as mounted:
            pid = pid_of(mounted)
            os.kill(pid, signal.SIGSTOP)
            await asyncio.to_thread(os.waitid, os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
            await mounted.guard(mounted.look(lambda: os.listdir(mountable / "view")))

    with pytest.raises(JobFailed) as caught:
        run(work())
    assert caught.value.reason == Reason.VIEW_WRONG


def test_a_view_that_is_renewed_shows_the_same_by_another_process(mountable: Path, files: VaultFiles, key: int) -> None:
    (files.plain / names.BACKUP_DIR / "file").write_bytes(b"x" * 5000)

    async def work() -> None:
        async with shown(files, mountable / "view", key) as mounted:

            async def renewed() -> None:
                before, pid = sorted(os.walk(mounted.point)), pid_of(mounted)
                await mounted.renew()
                assert sorted(os.walk(mounted.point)) == before
                assert pid_of(mounted) != pid
                with pytest.raises(ProcessLookupError):
                    os.kill(pid, 0)

            await mounted.guard(renewed())
        assert mounts.find(mounted.point) is None

    run(work())


def test_the_death_of_a_renewed_view_ends_the_work(mountable: Path, files: VaultFiles, key: int) -> None:
    async def for_ever(mounted: View) -> None:
        await mounted.renew()
        os.kill(pid_of(mounted), signal.SIGKILL)
        await asyncio.Event().wait()

    async def work() -> None:
        async with shown(files, mountable / "view", key) as mounted:
            await mounted.guard(for_ever(mounted))

    with pytest.raises(JobFailed) as caught:
        run(work())
    assert caught.value.reason == Reason.VIEW_DIED


def test_a_view_that_cannot_be_renewed(mountable: Path, files: VaultFiles, key: int) -> None:
    async def work() -> None:
        async with shown(files, mountable / "view", key) as mounted:
            files.key_file.unlink()
            await mounted.guard(mounted.renew())

    with pytest.raises(JobFailed) as caught:
        run(work())
    assert caught.value.reason == Reason.KEY_FILE_DAMAGED
    assert mounts.find(mountable / "view") is None


@pytest.mark.parametrize("after", [0, 0.005, 0.02, 0.1, 0.2, 0.3, 0.5])
def test_a_job_that_is_cancelled_while_its_view_is_renewed(mountable: Path, files: VaultFiles, key: int, after: float) -> None:
    async def job(begun: asyncio.Event) -> None:
        async with shown(files, mountable / "view", key) as mounted:
            begun.set()
            for _ in range(1000):
                await mounted.guard(mounted.renew())

    async def work() -> None:
        begun = asyncio.Event()
        task = asyncio.create_task(job(begun))
        await begun.wait()
        await asyncio.sleep(after)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert mounts.find(mountable / "view") is None
        assert not [one for one in asyncio.all_tasks() if one is not asyncio.current_task()]

    run(work())


def test_each_of_several_that_begin_at_once_waits_for_its_own_mount(mountable: Path, files: VaultFiles, key: int) -> None:
    """The signal of one says nothing of another, and each gocryptfs takes its time."""
    tool = mountable / "gocryptfs"
    tool.write_text(f'#!/bin/sh\ncase "$*" in *slow*) sleep 1.5 ;; esac\nexec {TOOLS.gocryptfs} "$@"\n')
    tool.chmod(0o700)

    async def one(name: str) -> None:
        (mountable / name).mkdir()
        point = mountable / name / "view"
        async with view.mounted([str(tool), *reverse(files, point)[1:]], point, gocryptfs.REVERSE_FILE_SYSTEM, key=key) as mounted:
            assert await mounted.look(lambda: len(os.listdir(point))) == 4

    async def work() -> None:
        await asyncio.gather(one("slow"), one("quick"), one("slower"))

    run(work())


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
