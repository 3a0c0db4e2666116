# SPDX-License-Identifier: GPL-3.0-or-later
"""The two configuration files as frozen values: one vault (`vaults.d/NAME.toml`) and the settings (`offsited.toml`).

Text in, value or `ConfigInvalid` out; nothing here touches a file.
"""

import re
import tomllib
from itertools import takewhile
from pathlib import PurePosixPath
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from offsited.errors import ConfigInvalid
from offsited.names import NAME_PATTERN

REFUSED_RSYNC_OPTIONS: Final = (
    "--del", "--inplace", "--append", "--size-only", "--ignore-existing", "--ignore-non-existing", "--existing",
    "--ignore-errors", "--ignore-missing-args", "--force", "--remove-source-files", "--remove-sent-files", "--dry-run", "--list-only",
    "--backup", "--suffix", "--files-from", "--from0", "--exclude", "--include", "--filter", "--cvs-exclude", "--partial-dir", "--temp-dir",
    "--delay-updates", "--write-batch", "--only-write-batch", "--read-batch", "--rsh", "--daemon", "--config", "--server", "--sender",
    "--copy-links", "--copy-unsafe-links", "--safe-links", "--munge-links", "--copy-dirlinks", "--keep-dirlinks", "--insecure-links",
    "--no-", "--relative", "--archive", "--recursive", "--dirs", "--old-d", "--drop-D", "--copy-devices", "--write-devices", "--omit-",
    "--chown", "--chmod", "--usermap", "--groupmap", "--copy-as", "--confine-root", "--out-format", "--log-file", "--log-format",
    "--itemize-changes", "--info", "--debug", "--quiet", "--verbose", "--stats", "--stderr", "--msgs2stderr", "--progress",
    "--human-readable", "--max-delete", "--max-size", "--min-size", "--update", "--prune-empty-dirs", "--fuzzy",
    "--compare-dest", "--copy-dest", "--link-dest", "--stop-after", "--stop-at", "--time-limit", "--trust-sender", "--password-file",
    "--early-input", "--secluded-args", "--protect-args", "--iconv", "--checksum-seed", "--modify-window", "--open-noatime",
    "--remote-option", "--help", "--version",
)  # fmt: skip
"""Prefixes of what a user may not add: each would delete, skip, rename, reread or hide something that the design counts on."""

_VALUED_RSYNC_OPTIONS: Final = frozenset({
    "--address", "--block-size", "--bwlimit", "--cc", "--checksum-choice", "--compress-choice", "--compress-level", "--compress-threads",
    "--contimeout", "--max-alloc", "--outbuf", "--port", "--protocol", "--rsync-path", "--skip-compress", "--sockopts", "--timeout",
    "--zc", "--zl", "--zt",
})  # fmt: skip
"""Without `=` each takes the next argument for its value. That would be the view: rsync lists what is left, and exits 0."""


def _name(text: str) -> str:
    if not NAME_PATTERN.fullmatch(text):
        raise ValueError("must be 1 to 32 of a-z, 0-9 and _, starting with a letter")
    return text


def _absolute(text: str) -> str:
    path = PurePosixPath(text)
    if not text.startswith("/") or "\0" in text or "\n" in text:
        raise ValueError("must be an absolute path")
    if ".." in path.parts:
        raise ValueError("must not contain '..'")
    return str(path) if not text.startswith("//") else "/" + str(path).lstrip("/")


def _remote_directory(text: str) -> str:
    if not re.fullmatch(r"[\w./@+=, -]+", text):
        raise ValueError("may hold letters, digits, spaces and . / @ + = , _ - only")
    path = _absolute(text)
    if path == "/":
        raise ValueError("must not be the root directory")
    return path


def _mount_point(text: str) -> str:
    path = _absolute(text)
    if path == "/" or any(char in path for char in ": "):  # as systemd's ReadWritePaths= takes it
        raise ValueError("must be a mount point other than /, without colons and spaces")
    return path


def _inside_disk(text: str) -> str:
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or path == PurePosixPath() or "\0" in text or "\n" in text:
        raise ValueError("must be a relative path inside the disk's file system, without '..'")
    return str(path)


def _host(text: str) -> str:
    if not re.fullmatch(r"(?:[A-Za-z_][A-Za-z0-9_.-]*@)?(?:[A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9A-Fa-f:.%a-z]+\])", text):
        raise ValueError("must be USER@HOST or HOST")
    return text


def _jump(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if colon and "]" not in port:
        if not re.fullmatch(r"[1-9]\d{0,4}", port) or int(port) > 65535:
            raise ValueError("must be USER@HOST or USER@HOST:PORT")
        return f"{_host(host)}:{port}"
    return _host(text)


def _rsync_option(text: str) -> str:
    option = text.removeprefix("-M").removeprefix("--remote-option=")
    if not re.match(r"--\w", option) and option != "-z":
        raise ValueError(f"{text!r}: only long options (--name or --name=value) and -z may be given")
    if option.startswith(REFUSED_RSYNC_OPTIONS):
        raise ValueError(f"{text!r} is refused: it would delete, skip or hide what offsited must see")
    if option in _VALUED_RSYNC_OPTIONS:
        raise ValueError(f"{text!r}: the value must follow in the same word, as in {text}=VALUE")
    if text.startswith("--fake-super"):
        raise ValueError(f"{text!r} is refused: a restore would not see what it hides; -M--fake-super is for hosts without root")
    return text


def _pattern(text: str) -> str:
    if not text.strip("! ") or text.startswith("#") or re.search(r"[\0\n\r]", text):
        raise ValueError("must be a pattern as in .gitignore: one line, not empty, no comment")
    return text


def _mail_address(text: str) -> str:
    if not re.fullmatch(r"[^\s\0-\x1f\x7f<>()\[\],;:\\\"|/-][^\s\0-\x1f\x7f<>()\[\],;:\\\"|]*", text) or not text.isascii():
        raise ValueError("must be an address like root or you@example.org")
    return text


def _limit(value: str | int) -> str | int:
    if isinstance(value, bool) or (isinstance(value, int) and value < 0):
        raise ValueError("must be a percentage like '20%' or a number of files")
    if isinstance(value, str) and not (re.fullmatch(r"\d{1,3}(\.\d+)?%", value) and float(value[:-1]) <= 100):
        raise ValueError("must be a percentage like '20%' or a number of files")
    return value


def _byte_limit(value: str) -> str:
    if value.endswith("%"):
        return str(_limit(value))
    if not re.fullmatch(r"\d{1,15}(\.\d+)?[KMGT]?", value):
        raise ValueError("must be a percentage like '20%' or a size like '500M', '1.5T'")
    return value


def _marker(text: str) -> str:
    path = PurePosixPath(text)
    if path.is_absolute():
        return _absolute(text)
    if ".." in path.parts or path == PurePosixPath() or re.search(r"[\0\n]", text):
        raise ValueError("must be an absolute path, or one inside the snapshot without '..'")
    return str(path)


Name = Annotated[str, AfterValidator(_name)]
AbsolutePath = Annotated[str, AfterValidator(_absolute)]
Limit = Annotated[str | int, AfterValidator(_limit)]
ByteLimit = Annotated[str, AfterValidator(_byte_limit)]
Duration = Annotated[str, Field(pattern=r"^[1-9]\d{0,4}[smhdw]$")]
Bandwidth = Annotated[str, Field(pattern=r"^[1-9]\d{0,8}(\.\d+)?[KMG]?$")]


_DURATION_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def microseconds(duration: str) -> int:
    """Given a `Duration`, return it in microseconds."""
    return int(duration[:-1]) * _DURATION_UNITS[duration[-1]] * 1_000_000


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Source(_Table):
    """Where the newest snapshot is found; `root` is the directory it must lie below."""

    kind: Literal["lastdst", "newest", "path"]
    path: AbsolutePath
    """lastdst: a file holding one absolute path. newest: a pattern of directories. path: the directory."""
    root: AbsolutePath = ""
    exclude: tuple[Annotated[str, AfterValidator(_pattern)], ...] = Field(default=(), strict=False)
    order: Literal["name", "btime"] = "name"
    """What dates a snapshot: its name, or when its directory was made."""
    finished: tuple[Annotated[str, AfterValidator(_marker)], ...] = Field(default=(), strict=False)
    """Files without which a snapshot is not complete; relative ones lie in the snapshot."""
    unfinished: tuple[Annotated[str, AfterValidator(_marker)], ...] = Field(default=(), strict=False)
    """Files with which a snapshot is not complete, or no snapshot is to be trusted: markers, locks; relative ones lie in the snapshot."""

    @model_validator(mode="after")
    def _fill_root(self) -> Self:
        if not self.root:
            object.__setattr__(self, "root", _default_root(self.kind, self.path))
        if self.kind == "path" and not PurePosixPath(self.path).is_relative_to(self.root):
            raise ValueError("path does not lie below root")
        if self.kind == "newest" and not any(char in PurePosixPath(self.path).name for char in "*?["):
            raise ValueError("path of kind 'newest' must end in a pattern, such as /backup/20*")
        return self


def _default_root(kind: str, path: str) -> str:
    """The directory of the `lastdst` file, the fixed part of a pattern, or the path itself."""
    pure = PurePosixPath(path)
    if kind == "path":
        return path
    parts = pure.parent.parts
    fixed = takewhile(lambda part: kind != "newest" or not any(char in part for char in "*?["), parts)
    return str(PurePosixPath(*fixed))


class Limits(_Table):
    """Bounds on one sync; a percentage is of the files, or of the bytes, last committed."""

    max_delete: Limit = "20%"
    max_change: Limit = "60%"
    max_delete_bytes: ByteLimit | None = None
    max_change_bytes: ByteLimit | None = None


class _Target(_Table):
    name: Name
    default: bool = False
    stale_after: Duration | None = None
    bandwidth: Bandwidth | None = None
    rsync_options: tuple[Annotated[str, AfterValidator(_rsync_option)], ...] = Field(default=(), strict=False)


class DiskTarget(_Target):
    """A directory on a local file system, found by its UUID or label and mounted by the job alone, or by somebody else at `path`."""

    kind: Literal["disk"]
    uuid: Annotated[str, Field(pattern=r"^[0-9A-Fa-f-]{4,36}$")] | None = None
    label: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.+-]{1,64}$")] | None = None
    directory: Annotated[str, AfterValidator(_inside_disk)]
    path: Annotated[str, AfterValidator(_mount_point)] | None = None
    """Where the file system is mounted already, and by whom is not our affair."""
    on_arrival: Literal["sync", "nothing"] = "nothing"

    @model_validator(mode="after")
    def _one_identity(self) -> Self:
        if (self.uuid is None) == (self.label is None):
            raise ValueError("exactly one of uuid and label must be given")
        return self

    @property
    def device(self) -> str:
        """The udev link of the block device that holds the file system."""
        return f"/dev/disk/by-uuid/{self.uuid}" if self.uuid else f"/dev/disk/by-label/{self.label}"


class SshTarget(_Target):
    """A directory on another machine, reached by ssh with the vault's own key and offsited's own known_hosts."""

    kind: Literal["ssh"]
    host: Annotated[str, AfterValidator(_host)]
    port: Annotated[int, Field(ge=1, le=65535)] = 22
    directory: Annotated[str, AfterValidator(_remote_directory)]
    identity: AbsolutePath
    jump: Annotated[str, AfterValidator(_jump)] | None = None
    """USER@HOST[:PORT] through which the host is reached."""
    rrsync: AbsolutePath | None = None
    """The directory to which rrsync(1) limits the key at the host."""
    seed: Name | None = None

    @model_validator(mode="after")
    def _below_rrsync(self) -> Self:
        if self.rrsync and not (self.rrsync != "/" and PurePosixPath(self.rrsync) in PurePosixPath(self.directory).parents):
            raise ValueError("directory does not lie below rrsync")
        return self

    @property
    def shown_directory(self) -> str:
        """The directory as the account sees it: for rrsync, the root is the directory that it is limited to."""
        return self.directory if self.rrsync is None else f"/{PurePosixPath(self.directory).relative_to(self.rrsync)}"


Target = Annotated[DiskTarget | SshTarget, Field(discriminator="kind")]


class Vault(_Table):
    """One vault file. `name` comes from the file's name."""

    name: Name
    source: Source
    limits: Limits = Limits()
    reconcile: Duration = "30d"
    verify_days: Annotated[int, Field(ge=0, le=3650)] = 0
    """Days within which timed verifications have read every byte that a target holds; 0 = they read metadata alone."""
    passphrase_command: tuple[str, ...] = Field(default=(), strict=False)
    credential: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$")] | None = None
    target: tuple[Target, ...] = Field(strict=False)

    @model_validator(mode="after")
    def _targets_agree(self) -> Self:
        names = [target.name for target in self.target]
        disks = [target.name for target in self.target if isinstance(target, DiskTarget)]
        if self.credential and self.passphrase_command:
            raise ValueError("credential and passphrase_command exclude each other")
        if not names:
            raise ValueError("there must be a [[target]]")
        if len(set(names)) < len(names):
            raise ValueError("two targets have the same name")
        if sum(target.default for target in self.target) > 1:
            raise ValueError("more than one target has default = true")
        for target in self.target:
            if isinstance(target, SshTarget) and target.seed not in {None, *disks}:
                raise ValueError(f"target {target.name}: seed = {target.seed!r} is no disk target of this vault")
        return self

    @property
    def entered_by(self) -> Literal["person", "credential", "command"]:
        """Who is asked for the passphrase first. A person is asked where the others fail."""
        return "credential" if self.credential else "command" if self.passphrase_command else "person"

    @property
    def default_target(self) -> DiskTarget | SshTarget:
        """The target marked `default`, else the first one."""
        return next((target for target in self.target if target.default), self.target[0])

    def find_target(self, name: str) -> DiskTarget | SshTarget | None:
        """Given a target's name ("" = the default), return it, or None."""
        if not name:
            return self.default_target
        return next((target for target in self.target if target.name == name), None)


class Tools(_Table):
    """The programs that jobs run."""

    gocryptfs: AbsolutePath = "/usr/bin/gocryptfs"
    rsync: AbsolutePath = "/usr/bin/rsync"
    ssh: AbsolutePath = "/usr/bin/ssh"
    setpriv: AbsolutePath = "/usr/bin/setpriv"
    mount: AbsolutePath = "/usr/bin/mount"
    sshfs: AbsolutePath = "/usr/bin/sshfs"

    @property
    def gocryptfs_xray(self) -> str:
        """gocryptfs's own inspector of key files; it lies beside gocryptfs."""
        return str(PurePosixPath(self.gocryptfs).with_name("gocryptfs-xray"))


class Notify(_Table):
    """Who is told, and how."""

    mail: tuple[Annotated[str, AfterValidator(_mail_address)], ...] = Field(default=(), strict=False)
    on_success: bool = False
    names_in_mail: bool = False
    stale_after: Duration = "36h"
    ping: Annotated[str, Field(pattern=r"^https?://[^\s/]+\S*$")] | None = None
    apprise: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9]+://\S*$")], ...] = Field(default=(), strict=False)
    prometheus: AbsolutePath | None = None

    @property
    def ways(self) -> bool:
        """Whether anything is to be sent or written at a job's end."""
        return bool(self.mail or self.ping or self.apprise or self.prometheus)


class Settings(_Table):
    """offsited.toml."""

    notify: Notify = Notify()
    tools: Tools = Tools()


def parse_vault(name: str, text: str) -> Vault:
    """Given a vault's name and its file's text, return the vault. Raise ConfigInvalid with one line per problem."""
    if not NAME_PATTERN.fullmatch(name):
        raise ConfigInvalid(f"vault {name!r}: a vault's name must be 1 to 32 of a-z, 0-9 and _, starting with a letter")
    document = _document(text)
    if "name" in document:
        raise ConfigInvalid("name: not allowed here; a vault's name is that of its file")
    try:
        return Vault.model_validate({"name": name, **document})
    except ValidationError as error:
        raise ConfigInvalid(_problems(error, document)) from None


def parse_settings(text: str) -> Settings:
    """Given the text of offsited.toml, return the settings. Raise ConfigInvalid with one line per problem."""
    document = _document(text)
    try:
        return Settings.model_validate(document)
    except ValidationError as error:
        raise ConfigInvalid(_problems(error, document)) from None


def _document(text: str) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # plain ValueError: a number of more digits than Python converts
        raise ConfigInvalid(f"not valid TOML: {error}") from None


def _problems(error: ValidationError, document: dict[str, object]) -> str:
    return "\n".join(_problem(details, document) for details in error.errors())


def _problem(details: ErrorDetails, document: dict[str, object]) -> str:
    """One line: the key as the file spells it, and what is wrong with it."""
    message = details["msg"].removeprefix("Value error, ")
    if details["type"] == "extra_forbidden":
        message = "there is no such setting"
    return f"{_where(details['loc'], document)}: {message}"


def _where(location: tuple[int | str, ...], document: dict[str, object]) -> str:
    parts = [str(part) for part in location]
    if parts[:1] == ["target"] and len(parts) > 1:
        targets = document.get("target")
        entry = targets[int(parts[1])] if isinstance(targets, list) and parts[1].isdigit() else None
        label = entry.get("name") if isinstance(entry, dict) else None
        kind = entry.get("kind") if isinstance(entry, dict) else None
        rest = [part for part in parts[2:] if part != kind]
        return ".".join([f"target {label or int(parts[1]) + 1 if parts[1].isdigit() else parts[1]}", *rest])
    return ".".join(parts) or "vault"
