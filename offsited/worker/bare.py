# SPDX-License-Identifier: GPL-3.0-or-later
"""What a bare machine runs: `python3 -I -m offsited.worker.bare DIRECTORY restore|attach VAULT TARGET [--master-key]`.

Nothing is configured here: `offsitectl` has written a vault file into DIRECTORY, and the target tells the rest, whose it is and its key
file. The key comes on standard input: the passphrase, or the master key, which is then put into a key file of its own with a passphrase
that nobody knows.
"""

import fcntl
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from offsited import names
from offsited.core import gocryptfs
from offsited.core.commit import digest, parse_owner
from offsited.core.config import Tools
from offsited.core.outcome import Reason
from offsited.errors import Exit, JobFailed
from offsited.store import Store, VaultFiles, VaultIdentity, write_whole
from offsited.worker import job, segments
from offsited.worker.confirmed import COMMIT_FILE, Announced, Confirmed
from offsited.worker.fetching import shown_in_clear, translated
from offsited.worker.job import DONE, Ending, Job
from offsited.worker.reach import reach
from offsited.worker.restore import restore
from offsited.worker.transfer import Transfers
from offsited.worker.view import require

_MASTER_KEY: Final = "--master-key"
_MASTER_KEY_MAX: Final = 4096
_LISTEN_FDS_START: Final = 3
_ASIDE: Final = 64


async def restore_from(job: Job) -> Ending:
    """Restore what a target holds, as `restore`. Raise JobFailed."""
    await learn(job)
    return await restore(job)


async def restore_by_master_key(job: Job) -> Ending:
    """The same; standard input is the master key."""
    await learn(job)
    _wrap(job.tools, job.files)
    return await restore(job)


async def attach(job: Job) -> Ending:
    """Make what this machine must know of the target, as if it had made its last commit. Raise JobFailed."""
    await learn(job)
    await require(job.tools.gocryptfs)
    transfers = Transfers(job.tools, job.runtime, job.report)
    reached = await reach(job, writing=False)
    confirmed = Confirmed.read(job.files.target(job.target.name))
    confirmed.new_tree()
    scratch = job.runtime / "scratch"
    scratch.mkdir(mode=0o700)
    async with shown_in_clear(job, reached, transfers, scratch) as clear:
        content, commit = await clear.read_commit()
        for segment in commit.segments:
            await clear.fetch_own([segment.name])
            if not segments.is_intact(clear.own / segment.name, segment):
                raise JobFailed(Reason.MANIFEST_DAMAGED, segment.name)
            shutil.copyfile(clear.own / segment.name, confirmed.segments / segment.name)
    async with translated(job) as sealed:
        (path,) = await sealed.of([f"{names.OFFSITED_DIR}/{COMMIT_FILE}".encode()])
    found = await reached.look(transfers, [path])
    if path not in found.files:
        raise JobFailed(Reason.TARGET_EMPTY)
    confirmed.confirm(Announced(content=content.decode(), commit_path=path, sealed=digest(found.files[path])))
    job.report.note(snapshot=commit.snapshot, snapshot_dated=commit.snapshot_dated, commit=digest(content))
    return DONE


async def learn(job: Job) -> None:
    """Take over from the target whose it is, and its key file. Raise JobFailed."""
    looking = replace(job, runtime=job.runtime / "look")
    looking.runtime.mkdir(mode=0o700)
    reached = await reach(looking, writing=False)
    found = await reached.look(Transfers(job.tools, looking.runtime, job.report), [names.TARGET_KEY_FILE])
    if found.owner is None:
        raise JobFailed(Reason.TARGET_EMPTY if found.empty else Reason.TARGET_UNOWNED)
    owner = parse_owner(found.owner)
    if owner is None:
        raise JobFailed(Reason.TARGET_DAMAGED, f"{names.OWNER_FILE} at the target cannot be read")
    write_whole(job.files.state / "vault.json", VaultIdentity(id=owner.vault).model_dump_json().encode())
    key_file = found.files.get(names.TARGET_KEY_FILE)
    if key_file is not None:
        write_whole(job.files.key_file, key_file, 0o400)


def _wrap(tools: Tools, files: VaultFiles) -> None:
    """Make a key file of the master key on standard input, and standard input the passphrase of it. Raise JobFailed."""
    passphrase = os.memfd_create("offsited-passphrase", os.MFD_CLOEXEC)
    os.write(passphrase, secrets.token_hex(32).encode())
    given = os.open("/dev/stdin", os.O_RDONLY | os.O_CLOEXEC)
    files.key_file.unlink(missing_ok=True)
    _run(gocryptfs.init_command(tools.gocryptfs, files.plain, weak=True), [passphrase])
    _run(gocryptfs.rekey_command(tools.gocryptfs, files.plain), [given, passphrase])
    os.close(given)
    os.dup2(passphrase, 0)


def _run(command: Sequence[str], lines: Sequence[int]) -> None:
    """Run a program that reads a line from each of some files on standard input; what they hold is never in our memory."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    for descriptor in lines:
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.sendfile(writing, descriptor, 0, _MASTER_KEY_MAX)
        os.write(writing, b"\n")
    os.close(writing)
    try:
        ended = subprocess.run(command, stdin=reading, capture_output=True, check=False)
    except OSError as error:
        raise JobFailed(Reason.GOCRYPTFS_MISSING, f"{command[0]}: {error.strerror}") from None
    finally:
        os.close(reading)
    if ended.returncode:
        raise JobFailed(gocryptfs.exit_reason(ended.returncode), ended.stderr.decode("utf-8", "replace").strip())


def main(arguments: Sequence[str]) -> int:
    """Do what the command line says; the job's record in DIRECTORY says how it ended."""
    match arguments:
        case [directory, "restore", vault, _]:
            body = restore_from
        case [directory, "restore", vault, _, flag] if flag == _MASTER_KEY:
            body = restore_by_master_key
        case [directory, "attach", vault, _]:
            body = attach
        case _:
            print(__doc__, file=sys.stderr)
            return Exit.USAGE
    store = Store(Path(directory) / "etc", Path(directory) / "var")
    record = store.vault_files(vault).read_record(1)
    if record is None:
        return Exit.USAGE
    _take_given(os.environ.pop("OFFSITED_GIVEN", ""))
    return job.run(record, store, body)


def _take_given(given: str) -> None:
    """Put descriptors, told as NAME=NUMBER:..., where sd_listen_fds(3) finds them."""
    pairs = [word.partition("=") for word in given.split(":") if word]
    aside = [fcntl.fcntl(int(number), fcntl.F_DUPFD_CLOEXEC, _ASIDE) for _, _, number in pairs]
    for place, descriptor in enumerate(aside, start=_LISTEN_FDS_START):
        os.dup2(descriptor, place)
        os.close(descriptor)
    told = {"LISTEN_PID": os.getpid(), "LISTEN_FDS": len(pairs), "LISTEN_FDNAMES": ":".join(name for name, _, _ in pairs)}
    os.environ.update({name: str(value) for name, value in told.items()})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
