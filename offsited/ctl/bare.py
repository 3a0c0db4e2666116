# SPDX-License-Identifier: GPL-3.0-or-later
"""restore --from and attach: on a machine that knows nothing yet, from a target and a key alone.

The worker runs as a child, in a mount namespace of its own, on a configuration in a directory of root's below /run. There is no daemon to
ask, and none is needed.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from offsited import names
from offsited.core import config, words
from offsited.core.outcome import Reason, parse_reason
from offsited.core.progress import Progress, parse_status_text
from offsited.core.record import JobRecord, Kind, Options
from offsited.ctl import jobs, meter, passphrase, root
from offsited.ctl.follow import Meter, verdict
from offsited.ctl.objects import Job, JobEnd
from offsited.ctl.output import PROGRAM, Output
from offsited.ctl.passphrase import Passphrase
from offsited.ctl.vaultfile import DiskSpec, SourceSpec, TargetSpec, parse_target, vault_text
from offsited.errors import ConfigInvalid, Exit, Failed, InvalidArgs
from offsited.store import Store, VaultFiles

VAULT: Final = "bare"
TARGET: Final = "from"
"""What vault and target are called where nothing is configured."""
_RUN: Final = Path("/run")
_KNOWN_HOSTS: Final = ("/etc/offsited/known_hosts", "/root/.ssh/known_hosts", "/etc/ssh/ssh_known_hosts")
_IDENTITIES: Final = ("/root/.ssh/id_ed25519", "/root/.ssh/id_ecdsa", "/root/.ssh/id_rsa")
_WORKER: Final = ("/usr/bin/unshare", "--mount", "--propagation=private", "--", "/usr/bin/python3", "-I", "-m", "offsited.worker.bare")


_HINTS: Final = dict.fromkeys(
    (Reason.HOST_KEY_UNKNOWN, Reason.HOST_KEY_CHANGED),
    "Log in there once by ssh, as root, and compare the fingerprint that it shows: what /root/.ssh/known_hosts has is known here",
)


@dataclass(frozen=True)
class BareWish:
    """What was typed of where to read, and by which key."""

    spec: str
    """disk:... or ssh:..., as for `init`."""
    identity: str = ""
    """A file with the ssh key; "" = root's own."""
    fake_super: bool = False
    passphrase_file: str | None = None
    master_key_file: str | None = None


@dataclass(frozen=True)
class Bench:
    """A directory of root's alone with all that the worker needs."""

    top: Path
    vault: str
    target: str
    store: Store = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "store", Store(self.top / "etc", self.top / "var"))

    @property
    def files(self) -> VaultFiles:
        return self.store.vault_files(self.vault)

    @classmethod
    @contextlib.contextmanager
    def made(cls, vault: str, target: str) -> Iterator["Bench"]:
        """Within: an empty one."""
        top = Path(tempfile.mkdtemp(prefix="offsited-bare-", dir=_RUN))
        try:
            yield cls(top, vault, target)
        finally:
            shutil.rmtree(top, ignore_errors=True)

    def prepare(self, text: str, options: Options) -> None:
        """Write the vault file, the known hosts, and the record of the one job."""
        (self.store.etc / names.VAULTS_D).mkdir(parents=True)
        self.store.vault_file(self.vault).write_text(text)
        settings = names.ETC / names.SETTINGS_FILE
        if settings.exists():
            shutil.copy(settings, self.store.etc / names.SETTINGS_FILE)
        known = [Path(file).read_text() for file in _KNOWN_HOSTS if Path(file).is_file()]
        (self.store.etc / names.KNOWN_HOSTS).write_text("".join(known))
        self.files.create()
        (self.top / "run").mkdir(mode=0o700)
        now = time.time_ns() // 1000
        record = JobRecord(job=1, kind=Kind.RESTORE, vault=self.vault, target=self.target, options=options, unit="bare", requested=now)
        self.files.write_record(record)


def restore_from(out: Output, wish: BareWish, wanted: bytes, destination: int, *, without_manifest: bool) -> int:
    """Restore paths (b"" = everything) of a target into an open directory; return the exit status."""
    root.require("restore --from mounts and reads what lies at a target: it needs root")
    with Bench.made(VAULT, TARGET) as bench, _memfd(wanted) as listed:
        target = parse_target(f"{TARGET}={wish.spec}", VAULT)
        if isinstance(target, DiskSpec) and "/" not in wish.spec:
            raise InvalidArgs(
                "which directory of the disk?", hint="Give it: disk:LABEL=L/DIR; it is the vault's name where init was not told otherwise"
            )
        text = bare_text(VAULT, SourceSpec("path", "/"), target, wish)
        bench.prepare(text, Options(without_manifest=without_manifest))
        with secret(wish) as key:
            what = ["restore", *(["--master-key"] if wish.master_key_file is not None else [])]
            run(bench, what, key, {names.DESTINATION_FD: destination, names.PATHS_FD: listed}, meter.choose(out, quiet=False))
        status = tell(out, bench)
        for line in _differences(bench):
            out.say(words.printable(line))
        return status


def bare_text(vault: str, source: SourceSpec, target: TargetSpec, wish: BareWish, identity: str = "") -> str:
    """The text of the vault file. Raise InvalidArgs for a target that cannot be."""
    text = vault_text(vault, source, (target,), identity or _identity(wish))
    if wish.fake_super:
        text += 'rsync_options = ["-M--fake-super"]\n'
    try:
        config.parse_vault(vault, text)
    except ConfigInvalid as error:
        raise InvalidArgs(error.message, hint="See: man offsitectl") from None
    return text


def _identity(wish: BareWish) -> str:
    if wish.identity:
        return str(Path(wish.identity).absolute())
    return next((file for file in _IDENTITIES if Path(file).is_file()), _IDENTITIES[0])


def secret(wish: BareWish) -> Passphrase:
    """The passphrase or the master key: of a file, or typed."""
    if wish.master_key_file is not None:
        if wish.master_key_file == "ask":
            return passphrase.from_prompt("Master key: ")
        return passphrase.from_file(wish.master_key_file)
    return passphrase.from_file_or_prompt(wish.passphrase_file, "Passphrase: ")


def run(bench: Bench, what: Sequence[str], key: Passphrase, given: Mapping[str, int], shown: Meter) -> None:
    """Run the worker to its end, with progress. Ctrl-C ends it in order, and then raises KeyboardInterrupt.

    `what`: what it is to do, and flags.
    """
    command = [*_WORKER, str(bench.top), what[0], bench.vault, bench.target, *what[1:]]
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C",
        "RUNTIME_DIRECTORY": str(bench.top / "run"),
        "OFFSITED_GIVEN": ":".join(f"{name}={descriptor}" for name, descriptor in given.items()),
        "NOTIFY_SOCKET": str(bench.top / "notify"),
    }
    with key.as_input() as stdin, _Notices(bench.top / "notify", shown), (bench.top / "log").open("wb") as log:
        process = subprocess.Popen(command, stdin=stdin, stdout=log, stderr=log, env=environment, pass_fds=tuple(given.values()), cwd="/")
        try:
            process.wait()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGTERM)  # the terminal has told it already; whoever else sent it has not
            process.wait()
            raise


def tell(out: Output, bench: Bench) -> int:
    """Say how it ended; return the exit status."""
    record = bench.files.read_record(1)
    if record is None or record.outcome is None:
        log = (bench.top / "log").read_text(errors="replace").strip().splitlines()
        raise Failed("the worker ended before it could say why" + (f": {log[-1]}" if log else ""))
    end = JobEnd.of(0, {**record.model_dump(), **record.counts.model_dump()})
    error = verdict(end, record.detail)
    if error and PROGRAM in error.hint:  # such a vault knows no other command
        error.hint = _HINTS.get(parse_reason(record.reason), "")
    told = {"message": error.message if error else "", "hint": error.hint if error else ""}
    out.put({**end.as_json(), **told, "exit_status": int(error.exit_status if error else Exit.DONE)})
    out.say(jobs.summary(end))
    return out.complain(error, put=False) if error else Exit.DONE


def _differences(bench: Bench) -> list[str]:
    """What did not come back as the manifest says, a line each."""
    try:
        return (bench.files.jobs / "1.differences").read_text("utf-8", "backslashreplace").splitlines()
    except FileNotFoundError:
        return []


class _Notices:
    """Shows what the worker says to the service manager that it does not have, sd_notify(3)."""

    def __init__(self, path: Path, shown: Meter) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.bind(str(path))
        self._shown = shown
        self._thread = threading.Thread(target=self._listen)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()
        self._shown.close()

    def _listen(self) -> None:
        while told := self._socket.recv(4096):
            for line in told.decode("utf-8", "replace").splitlines():
                progress = parse_status_text(line.removeprefix("STATUS="))
                if progress:
                    self._shown.update(_job(progress))


def _job(progress: Progress) -> Job:
    return Job(
        0,
        "restore",
        phase=progress.phase.value,
        bytes_done=progress.bytes_done,
        bytes_total=progress.bytes_total,
        entries_done=progress.entries_done,
        entries_total=progress.entries_total,
    )


@contextlib.contextmanager
def _memfd(content: bytes) -> Iterator[int]:
    descriptor = os.memfd_create("offsited-paths", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        yield descriptor
    finally:
        os.close(descriptor)
