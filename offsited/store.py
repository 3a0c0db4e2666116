# SPDX-License-Identifier: GPL-3.0-or-later
"""The files that offsited reads and keeps on this machine: configuration, and the state of each vault.

Daemon, workers and offsitectl share it. Every file that is kept is versioned JSON, replaced whole: temporary file, fsync, rename, fsync of
the directory. One writer at a time: a job's record belongs to the daemon until its unit runs, then to the worker, then to the daemon.

    /etc/offsited/offsited.toml                        settings
    /etc/offsited/vaults.d/NAME.toml                   one vault
    /var/lib/offsited/serial                           number of the last job
    /var/lib/offsited/vaults/NAME/plain/               bind points and key file
    /var/lib/offsited/vaults/NAME/state/vault.json     the vault's id
    /var/lib/offsited/vaults/NAME/state/key.json       which key file it must be
    /var/lib/offsited/vaults/NAME/state/jobs/ID.json   one job's record
    /var/lib/offsited/vaults/NAME/state/mounts/        where jobs have mounted something for all to see
    /var/lib/offsited/vaults/NAME/state/targets/T/     what one target is known to hold, and which arrival of its disk was heeded
    /var/lib/offsited/vaults/NAME/state/notices/       what was told, and notices that are not sent yet (spool)
"""

import hashlib
import os
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from offsited import names
from offsited.core import config
from offsited.core.record import JobRecord
from offsited.errors import ConfigInvalid, NoSuchVault

_Parsed = TypeVar("_Parsed")

_RECORD: Final = re.compile(r"[1-9][0-9]{0,18}\.json")

JOBS_KEPT: Final = 1000
"""Records of older jobs are dropped, except each target's last good one."""


def write_whole(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replace `path` by `content` in one step that survives power loss. Where it fails, nothing of `content` is left: it may be secret."""
    temporary = path.with_name(f".{path.name}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make renames and removals in `directory` durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class VaultIdentity(BaseModel):
    """`state/vault.json`: what a target's owner marker is compared with."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: int = 1
    id: str


class Arrival(BaseModel):
    """`state/targets/T/arrival.json`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: int = 1
    arrival: str
    """As `Disks.arrival` names it."""


class KeyRecord(BaseModel):
    """`state/key.json`: the key file that the vault must have. Times in microseconds since the epoch, 0 = never."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: int = 1
    sha256: str
    """Of the key file, in hex."""
    next: str = ""
    """Of the one that is about to replace it."""
    changed: int = 0
    """When the passphrase was changed last."""
    kit_confirmed: int = 0
    """When a recovery kit was last proven to open a target."""

    def allows(self, digest: str) -> bool:
        """Whether a key file of this digest is the vault's."""
        return digest in {self.sha256, self.next} - {""}


@dataclass(frozen=True)
class VaultFiles:
    """The places and records of one vault below /var/lib/offsited."""

    directory: Path

    @property
    def plain(self) -> Path:
        """What gocryptfs shows encrypted: the key file and the two bind points."""
        return self.directory / names.PLAIN_DIR

    @property
    def key_file(self) -> Path:
        return self.plain / names.KEY_FILE

    @property
    def state(self) -> Path:
        return self.directory / names.STATE_DIR

    @property
    def notices(self) -> Path:
        """What `spool` keeps."""
        return self.state / names.NOTICES_DIR

    @property
    def jobs(self) -> Path:
        return self.state / "jobs"

    def target(self, name: str) -> Path:
        """The directory of what target `name` is known to hold."""
        return self.state / "targets" / name

    def arrival(self, target: str) -> str:
        """Which arrival of a target's disk was heeded last; "" = none."""
        try:
            return Arrival.model_validate_json((self.target(target) / "arrival.json").read_bytes()).arrival
        except (OSError, ValidationError):
            return ""

    def write_arrival(self, target: str, arrival: str) -> None:
        """Keep which arrival of a target's disk was heeded. Raise OSError, also where the vault has no state: none is made."""
        self.target(target).mkdir(mode=0o700, exist_ok=True)
        write_whole(self.target(target) / "arrival.json", Arrival(arrival=arrival).model_dump_json().encode())

    def create(self) -> None:
        """Make the directories of a new vault, and its id. What is there stays."""
        for directory in (self.plain / names.BACKUP_DIR, self.plain / names.OFFSITED_DIR, self.jobs, self.state / "targets"):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.plain.chmod(0o700)
        if not (self.state / "vault.json").exists():
            identity = VaultIdentity(id=str(uuid.uuid4()))
            write_whole(self.state / "vault.json", identity.model_dump_json().encode())

    def identity(self) -> str:
        """Return the vault's id. Raise ConfigInvalid if there is none."""
        try:
            return VaultIdentity.model_validate_json((self.state / "vault.json").read_bytes()).id
        except (OSError, ValidationError) as error:
            raise ConfigInvalid(
                f"the vault's state in {self.state} is missing or damaged: {type(error).__name__}",
                hint="Was it made with offsitectl init? State is not to be written by hand.",
            ) from None

    def key_digest(self) -> str:
        """Return the SHA-256 of the key file as it is, in hex; "" if there is none that can be read."""
        try:
            return hashlib.sha256(self.key_file.read_bytes()).hexdigest()
        except OSError:
            return ""

    def key_record(self) -> KeyRecord | None:
        """Return what is on record of the key file; None for a vault of an earlier version."""
        try:
            return KeyRecord.model_validate_json((self.state / "key.json").read_bytes())
        except (OSError, ValidationError):
            return None

    def write_key_record(self, record: KeyRecord) -> None:
        """Say which key file the vault must have."""
        write_whole(self.state / "key.json", record.model_dump_json().encode())

    def key_file_is_right(self) -> bool:
        """Whether the key file is the one on record, or none is on record."""
        record = self.key_record()
        return record is None or record.allows(self.key_digest())

    def write_record(self, record: JobRecord) -> None:
        """Keep a job's record."""
        write_whole(self.jobs / f"{record.job}.json", record.model_dump_json().encode())

    def read_record(self, job: int) -> JobRecord | None:
        """Return a job's record, or None if there is none that can be read."""
        try:
            return JobRecord.model_validate_json((self.jobs / f"{job}.json").read_bytes())
        except (OSError, ValidationError):
            return None

    def remove_record(self, job: int) -> None:
        """Forget a job that never began."""
        (self.jobs / f"{job}.json").unlink(missing_ok=True)

    def job_ids(self) -> list[int]:
        """The numbers of all jobs with a record, newest first."""
        try:
            found = [int(entry.stem) for entry in self.jobs.iterdir() if _RECORD.fullmatch(entry.name)]
        except FileNotFoundError:
            return []
        return sorted(found, reverse=True)

    def records(self) -> Iterator[JobRecord]:
        """All readable records, newest first."""
        for job in self.job_ids():
            record = self.read_record(job)
            if record is not None:
                yield record

    def prune_records(self, keep: frozenset[int], limit: int = JOBS_KEPT) -> None:
        """Drop the oldest records beyond `limit`, except those in `keep`."""
        for job in self.job_ids()[limit:]:
            if job not in keep:
                for suffix in (".json", ".differences", ".findings"):
                    (self.jobs / f"{job}{suffix}").unlink(missing_ok=True)


@dataclass(frozen=True)
class Store:
    """All of it, below two directories."""

    etc: Path = names.ETC
    var: Path = names.VAR

    def vault_names(self) -> list[str]:
        """Names of the vault files, sorted, valid or not."""
        try:
            return sorted(entry.stem for entry in (self.etc / names.VAULTS_D).iterdir() if entry.suffix == ".toml" and entry.name[0] != ".")
        except FileNotFoundError:
            return []

    def vault_file(self, name: str) -> Path:
        return self.etc / names.VAULTS_D / f"{name}.toml"

    def read_vault(self, name: str) -> config.Vault:
        """Return a vault's configuration. Raise NoSuchVault, or ConfigInvalid naming file and key."""
        if not names.NAME_PATTERN.fullmatch(name):
            raise NoSuchVault(f"{name!r} cannot be a vault's name", hint="See the vaults: offsitectl list")
        path = self.vault_file(name)
        try:
            text = _read_text(path)
        except FileNotFoundError:
            hint = f"See the vaults: offsitectl list. Make one: offsitectl init {name} ..."
            raise NoSuchVault(f"there is no vault {name!r}", hint=hint) from None
        return _located(path, lambda: config.parse_vault(name, text))

    def read_settings(self) -> config.Settings:
        """Return the settings; without a file, the defaults. Raise ConfigInvalid naming file and key."""
        path = self.etc / names.SETTINGS_FILE
        try:
            text = _read_text(path)
        except FileNotFoundError:
            return config.Settings()
        return _located(path, lambda: config.parse_settings(text))

    def read_notify(self) -> config.Notify:
        """Return who is told, and how. Settings that cannot be used must not silence everything: then root gets mail, and is told so."""
        try:
            return self.read_settings().notify
        except ConfigInvalid:
            return config.Notify(mail=("root",))

    def vault_files(self, name: str) -> VaultFiles:
        return VaultFiles(self.var / names.VAULTS / name)

    def next_job(self) -> int:
        """Take the next job number. Never one that a record already has, even if the counter was lost."""
        serial = self.var / "serial"
        try:
            last = max(int(serial.read_text("ascii")), 0)
        except (OSError, ValueError):
            last = max((job for vault in (self.var / names.VAULTS).glob("*") for job in VaultFiles(vault).job_ids()), default=0)
        write_whole(serial, f"{last + 1}\n".encode())
        return last + 1


def _read_text(path: Path) -> str:
    """Raise FileNotFoundError, or ConfigInvalid for what cannot be read as text."""
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigInvalid(f"{path}: cannot be read: {error}") from None


def _located(path: Path, parse: Callable[[], _Parsed]) -> _Parsed:
    """Run `parse`; put the file's path before each problem it raises."""
    try:
        return parse()
    except ConfigInvalid as error:
        lines = "\n".join(f"{path}: {line}" for line in error.message.splitlines())
        raise ConfigInvalid(lines, hint="Correct the file, then see: offsitectl check-config") from None
