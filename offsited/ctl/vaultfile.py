# SPDX-License-Identifier: GPL-3.0-or-later
"""From what is typed at `init` to the text of a vault file. Pure."""

import json
import re
from dataclasses import dataclass
from typing import Final

from offsited import names
from offsited.errors import InvalidArgs

SOURCE_KINDS: Final = ("lastdst", "newest", "path")
TARGET_FORMS: Final = "NAME=disk:UUID=U[/DIR], NAME=disk:LABEL=L[/DIR] or NAME=ssh:USER@HOST[:PORT]/DIR"
DEFAULT_PORT: Final = 22

_DISK: Final = re.compile(r"(?P<key>UUID|LABEL)=(?P<value>[^/]+)(?:/(?P<directory>.+))?")
_SSH: Final = re.compile(r"(?P<host>(?:[^@/:]+@)?(?:\[[^\]/]+\]|[^@/:\[\]]+))(?::(?P<port>[0-9]{1,5}))?(?P<directory>/.+)")


@dataclass(frozen=True)
class SourceSpec:
    """--source KIND:PATH and --root DIR; root "" = the default of the kind."""

    kind: str
    path: str
    root: str = ""


@dataclass(frozen=True)
class DiskSpec:
    """NAME=disk:UUID=U[/DIR] or NAME=disk:LABEL=L[/DIR]; `key` is uuid or label."""

    name: str
    key: str
    value: str
    directory: str


@dataclass(frozen=True)
class SshSpec:
    """NAME=ssh:USER@HOST[:PORT]/DIR."""

    name: str
    host: str
    port: int
    directory: str


TargetSpec = DiskSpec | SshSpec


def parse_source(text: str, root: str = "") -> SourceSpec:
    """Given KIND:PATH, return the source. Raise InvalidArgs."""
    kind, colon, path = text.partition(":")
    if not colon or kind not in SOURCE_KINDS or not path:
        raise InvalidArgs(
            f"--source {text!r} is none of {', '.join(f'{known}:PATH' for known in SOURCE_KINDS)}",
            hint="For example: --source lastdst:/backup/lastdst",
        )
    return SourceSpec(kind, path, root)


def parse_target(text: str, vault: str) -> TargetSpec:
    """Given NAME=KIND:..., return the target; a disk's directory is the vault's name if none is given. Raise InvalidArgs."""
    name, equals, rest = text.partition("=")
    kind, colon, place = rest.partition(":")
    if equals and colon and names.NAME_PATTERN.fullmatch(name):
        if kind == "disk" and (match := _DISK.fullmatch(place)):
            return DiskSpec(name, match["key"].lower(), match["value"], match["directory"] or vault)
        if kind == "ssh" and (match := _SSH.fullmatch(place)):
            return SshSpec(name, match["host"], int(match["port"] or DEFAULT_PORT), match["directory"])
    raise InvalidArgs(
        f"--target {text!r} is none of {TARGET_FORMS}",
        hint="For example: --target seed=disk:LABEL=OFFSITE --target vps=ssh:backup@vps.example.org/srv/offsite",
    )


def vault_text(vault: str, source: SourceSpec, targets: tuple[TargetSpec, ...], identity: str) -> str:
    """The text of the vault file, with comments on what one may want to change. `core.config.parse_vault` judges it.

    `identity` is the file of the vault's ssh key. Raise InvalidArgs for what TOML cannot hold.
    """
    lines = [
        f"# Vault {vault}, made by offsitectl init. Every setting: man 5 offsited-vault.",
        "# After a change: offsitectl check-config, then systemctl reload offsited.",
        "",
        "[source]",
        f"kind = {_string(source.kind)}",
        f"path = {_string(source.path)}",
        *([f"root = {_string(source.root)}"] if source.root else []),
        '# exclude = ["**/.cache/"]           # patterns as in .gitignore, relative to the snapshot',
        "",
        "[limits]",
        '# max_delete = "20%"                 # of the files last committed, or a number: what exceeds it waits for a person',
        '# max_change = "60%"',
    ]
    for target in targets:
        lines += ["", "[[target]]", *target_lines(target, identity)]
    if len(targets) > 1:
        lines += ["# default = true                      # in one target; without it the first one is the default"]
    return "\n".join(lines) + "\n"


def target_lines(target: TargetSpec, identity: str) -> list[str]:
    """The settings of a target's table. `identity` is the file of the ssh key."""
    head = [f"name = {_string(target.name)}"]
    if isinstance(target, DiskSpec):
        return [
            *head,
            'kind = "disk"',
            f"{target.key} = {_string(target.value)}",
            f"directory = {_string(target.directory)}",
            '# on_arrival = "sync"               # whenever the disk is attached',
            '# path = "/mnt/offsite"             # where somebody else mounts its file system',
        ]
    port = [f"port = {target.port}"] if target.port != DEFAULT_PORT else []
    return [
        *head,
        'kind = "ssh"',
        f"host = {_string(target.host)}",
        *port,
        f"directory = {_string(target.directory)}",
        f"identity = {_string(identity)}",
        '# bandwidth = "4M"                   # bytes per second at most, in units of 1024',
        '# jump = "user@gateway.example.org"  # a host that it lies behind',
        '# rrsync = "/srv/offsite"            # the directory to which rrsync limits the key in authorized_keys there, if it does',
        '# seed = "NAME"                      # a disk target that is filled here and carried there first: man offsitectl, target seal',
    ]


def _string(text: str) -> str:
    """A TOML basic string: JSON's, but for DEL, which TOML wants escaped. Raise InvalidArgs for what is not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidArgs(f"{text!r} is not UTF-8", hint="Configuration files are UTF-8; use another path") from None
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
