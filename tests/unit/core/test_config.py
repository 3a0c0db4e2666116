# SPDX-License-Identifier: GPL-3.0-or-later
"""The two configuration files: what is taken, what is refused, and how a problem is named."""

import contextlib
import copy
import re
import subprocess
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from offsited.core import config
from offsited.errors import ConfigInvalid

HOME = """
[source]
kind = "lastdst"
path = "/backupHome/lastdst"
exclude = ["**/.cache/"]

[limits]
max_delete = "20%"
max_change = 500

[[target]]
name = "seed"
kind = "disk"
uuid = "85ca06b8-5ed4-4492-ae64-abc2946009eb"
directory = "home"
on_arrival = "sync"

[[target]]
name = "vps"
kind = "ssh"
host = "backup@vps.example.org"
port = 2882
directory = "/srv/offsite/home"
identity = "/etc/offsited/id_home"
seed = "seed"
bandwidth = "4M"
rsync_options = ["--compress", "-z", "-M--fake-super"]
default = true
"""

SOURCE = {"kind": "path", "path": "/data"}
DISK: dict[str, Any] = {"name": "seed", "kind": "disk", "label": "OFFSITE", "directory": "home"}
SSH: dict[str, Any] = {"name": "vps", "kind": "ssh", "host": "u@h", "directory": "/srv/x", "identity": "/etc/offsited/id_home"}


def source(**changes: object) -> config.Source:
    return config.Source.model_validate(SOURCE | changes)


def disk(**changes: object) -> config.DiskTarget:
    return config.DiskTarget.model_validate(DISK | changes)


def ssh(**changes: object) -> config.SshTarget:
    return config.SshTarget.model_validate(SSH | changes)


def test_a_directory_as_rrsync_shows_it() -> None:
    assert ssh().shown_directory == "/srv/x"
    assert ssh(rrsync="/srv").shown_directory == "/x"
    assert ssh(rrsync="/srv/a", directory="/srv/a/b/c").shown_directory == "/b/c"
    for rrsync in ("/", "/srv/x", "/srv/x/y", "/sr", "srv"):
        with pytest.raises(ValidationError):
            ssh(rrsync=rrsync)


@pytest.mark.parametrize(("jump", "valid"), [("h", True), ("u@h:22", True), ("u@[fd00::1]:9", True), ("u@[fd00::1]", True)] + [
    (wrong, False) for wrong in ("", "u@", "h:", "h:0", "h:65536", "-oProxyCommand=x", "h h", "h;x", "h:22:22", "a@b@c")
])  # fmt: skip
def test_a_jump_host(jump: str, valid: bool) -> None:  # noqa: FBT001 - a table
    if valid:
        assert ssh(jump=jump).jump == jump
    else:
        with pytest.raises(ValidationError):
            ssh(jump=jump)


def test_the_vault_of_the_design() -> None:
    vault = config.parse_vault("home", HOME)
    assert (vault.name, vault.source.root, vault.source.exclude) == ("home", "/backupHome", ("**/.cache/",))
    assert (vault.limits.max_delete, vault.limits.max_change, vault.reconcile) == ("20%", 500, "30d")
    seed, vps = vault.target
    assert isinstance(seed, config.DiskTarget)
    assert seed.device == "/dev/disk/by-uuid/85ca06b8-5ed4-4492-ae64-abc2946009eb"
    assert isinstance(vps, config.SshTarget)
    assert (vps.host, vps.port, vps.seed, vps.bandwidth) == ("backup@vps.example.org", 2882, "seed", "4M")
    assert vault.default_target is vps
    assert (vault.find_target(""), vault.find_target("seed"), vault.find_target("other")) == (vps, seed, None)


def test_without_a_default_the_first_target_is_it() -> None:
    vault = config.parse_vault("home", HOME.replace("default = true", ""))
    assert vault.default_target.name == "seed"


def test_a_label_names_the_device() -> None:
    assert disk().device == "/dev/disk/by-label/OFFSITE"


def test_settings_have_defaults() -> None:
    settings = config.parse_settings("")
    assert settings == config.Settings()
    assert (settings.tools.gocryptfs_xray, settings.notify.stale_after) == ("/usr/bin/gocryptfs-xray", "36h")


def test_the_inspector_lies_beside_gocryptfs() -> None:
    assert config.parse_settings('[tools]\ngocryptfs = "/opt/g/gocryptfs"').tools.gocryptfs_xray == "/opt/g/gocryptfs-xray"


def test_a_configuration_never_changes_after_birth() -> None:
    vault = config.parse_vault("home", HOME)
    for table, field in ((vault, "reconcile"), (vault.source, "root"), (vault.limits, "max_delete"), (vault.target[0], "directory")):
        with pytest.raises(ValueError, match="frozen"):
            setattr(table, field, "x")


@pytest.mark.parametrize(
    ("kind", "path", "root"),
    [
        ("lastdst", "/backupHome/lastdst", "/backupHome"),
        ("lastdst", "/lastdst", "/"),
        ("newest", "/backup/20*", "/backup"),
        ("newest", "/backup/*/daily/20*", "/backup"),
        ("newest", "/b*/20*", "/"),
        ("newest", "/backup/x?/[12]*", "/backup"),
        ("path", "/srv/data", "/srv/data"),
        ("path", "//srv//data/", "/srv/data"),
    ],
)
def test_the_root_that_is_left_out(kind: str, path: str, root: str) -> None:
    assert source(kind=kind, path=path).root == root


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('kind = "tape"', "source.kind"),
        ('path = "relative"', "source.path: must be an absolute path"),
        ('path = "/a/../b"', "source.path: must not contain '..'"),
        ('path = "/a\\nb"', "source.path: must be an absolute path"),
        ('path = "/a\\u0000b"', "source.path: must be an absolute path"),
        ("path = 1", "source.path"),
        ('root = "/elsewhere"', "source: path does not lie below root"),
        ('colour = "red"', "source.colour: there is no such setting"),
        ('exclude = [""]', "source.exclude.0: must be a pattern"),
        ('exclude = ["a", "  "]', "source.exclude.1: must be a pattern"),
        ('exclude = ["!"]', "source.exclude.0: must be a pattern"),
        ('exclude = ["# a comment"]', "source.exclude.0: must be a pattern"),
        ('exclude = ["a\\nb"]', "source.exclude.0: must be a pattern"),
        ('exclude = ["a\\u0000b"]', "source.exclude.0: must be a pattern"),
    ],
)
def test_a_problem_of_the_source_names_its_key(line: str, problem: str) -> None:
    table = {"kind": 'kind = "path"', "path": 'path = "/data"'}
    table[line.split(" ", 1)[0]] = line
    text = "[source]\n" + "\n".join(table.values()) + '\n[[target]]\nname="s"\nkind="disk"\nlabel="L"\ndirectory="d"\n'
    with pytest.raises(ConfigInvalid) as caught:
        config.parse_vault("home", text)
    assert problem in caught.value.message


def test_a_pattern_is_needed_for_the_newest() -> None:
    with pytest.raises(ValueError, match="must end in a pattern"):
        source(kind="newest", path="/backup/*/daily")


@pytest.mark.parametrize(
    ("field", "value", "good"),
    [
        ("directory", "home", True),
        ("directory", "a/b", True),
        ("directory", "/home", False),
        ("directory", "../home", False),
        ("directory", "a/../b", False),
        ("directory", "", False),
        ("directory", ".", False),
        ("directory", "a\nb", False),
        ("label", "OFFSITE_1", True),
        ("label", "../../sda", False),
        ("label", "", False),
        ("label", "a b", False),
        ("bandwidth", "4M", True),
        ("bandwidth", "1.5G", True),
        ("bandwidth", "0", False),
        ("bandwidth", "4M --delete", False),
        ("bandwidth", "4M\n", False),
        ("name", "a", True),
        ("name", "a" * 32, True),
        ("name", "a" * 33, False),
        ("name", "A", False),
        ("name", "1a", False),
        ("name", "a-b", False),
        ("name", "a\n", False),
        ("on_arrival", "nothing", True),
        ("on_arrival", "eject", False),
    ],
)
def test_fields_of_a_disk(field: str, value: object, good: bool) -> None:  # noqa: FBT001 - a table
    _check(lambda: disk(**{field: value}), good=good)


@pytest.mark.parametrize(
    ("field", "value", "good"),
    [
        ("host", "vps.example.org", True),
        ("host", "backup@10.0.0.1", True),
        ("host", "backup@[fe80::1%eth0]", True),
        ("host", "-oProxyCommand=sh", False),
        ("host", "u@-oProxyCommand=sh", False),
        ("host", "u@h x", False),
        ("host", "u@h:22", False),
        ("host", "", False),
        ("port", 1, True),
        ("port", 65535, True),
        ("port", 0, False),
        ("port", 65536, False),
        ("port", "22", False),
        ("port", True, False),
        ("directory", "/srv/off site", True),
        ("directory", "/", False),
        ("directory", "//", False),
        ("directory", "srv", False),
        ("directory", "/srv/$(reboot)", False),
        ("directory", "/srv/a:b", False),
        ("directory", "/srv/*", False),
        ("directory", "/srv/../etc", False),
        ("identity", "id", False),
        ("seed", "seed", True),
        ("seed", "Seed", False),
        ("default", "yes", False),
    ],
)
def test_fields_of_a_host(field: str, value: object, good: bool) -> None:  # noqa: FBT001 - a table
    _check(lambda: ssh(**{field: value}), good=good)


@pytest.mark.parametrize(
    ("path", "good"),
    [("/mnt/offsite", True), ("/", False), ("mnt", False), ("/mnt/a b", False), ("/mnt/a:b", False), ("/mnt/../etc", False)],
)
def test_the_path_of_a_mounted_disk(path: str, good: bool) -> None:  # noqa: FBT001 - a table
    _check(lambda: disk(path=path), good=good)


@pytest.mark.parametrize(
    ("changes", "good"), [({"uuid": "85ca06b8"}, False), ({"label": None}, False), ({"label": None, "uuid": "85CA-06B8"}, True)]
)
def test_a_disk_is_known_by_uuid_or_label_not_both(changes: dict[str, object], good: bool) -> None:  # noqa: FBT001 - a table
    _check(lambda: disk(**changes), good=good)


@pytest.mark.parametrize(
    ("value", "good"),
    [("20%", True), ("0%", True), ("100%", True), ("12.5%", True), (0, True), (500, True)]
    + [(value, False) for value in ("101%", "-1%", "20", "%", "1e2%", -1, True, 1.5, "20 %", "20%\n")],
)
def test_limits(value: object, good: bool) -> None:  # noqa: FBT001 - a table
    _check(lambda: config.Limits.model_validate({"max_delete": value}), good=good)


@pytest.mark.parametrize(
    ("value", "good"), [("36h", True), ("1s", True), ("0h", False), ("36", False), ("36h\n", False), ("1.5h", False), ("-1d", False)]
)
def test_durations(value: str, good: bool) -> None:  # noqa: FBT001 - a table
    _check(lambda: config.Notify.model_validate({"stale_after": value}), good=good)


@pytest.mark.parametrize(
    "option",
    ["--compress", "-z", "--bwlimit=1M", "-M--fake-super", "--remote-option=--fake-super", "--skip-compress=gz/jpg", "--timeout=60"],
)
def test_options_that_a_user_may_give_rsync(option: str) -> None:
    assert ssh(rsync_options=[option]).rsync_options == (option,)


@pytest.mark.parametrize(
    "option",
    ["", "-a", "--", "x", "/etc", "-n", "-v", "-x", "-M-n", "-M--delete", "--remote-option=--delete-after", "-M-M--delete"]
    + ["--remote-option=-M--inplace", "--remote-option=--remote-option=--delete"]
    + [f"--{name}" for name in ("delete", "delete-during", "del", "inplace", "append", "append-verify", "size-only", "ignore-existing")]
    + ["--human-readable", "--stderr=all", "--msgs2stderr", "--itemize-changes", "--omit-dir-times", "--omit-link-times"]
    + ["--copy-devices", "--write-devices", "--old-dirs", "--old-d", "--drop-D", "--confine-root=/x", "--insecure-links"],
)
def test_options_that_a_user_may_not_give_rsync(option: str) -> None:
    """Each would delete, skip, rename, reread or hide something that the design counts on."""
    _check(lambda: ssh(rsync_options=[option]), good=False)


@pytest.mark.parametrize(
    "option", ["--timeout", "--bwlimit", "--skip-compress", "--rsync-path", "--remote-option", "--sockopts", "--address", "--protocol"]
)
def test_an_option_may_not_swallow_the_next_argument(option: str) -> None:
    """`--skip-compress` alone would take the view for its value, and rsync, left with one path, would list it and exit 0."""
    _check(lambda: ssh(rsync_options=[option]), good=False)


def test_every_option_that_rsync_has_is_judged() -> None:
    """An option of rsync that is neither in the list of harmless ones here nor refused is new: somebody must look at it."""
    text = subprocess.run(["rsync", "--help"], capture_output=True, text=True, check=True).stdout
    known = set(re.findall(r"(?<![\w-])(--[a-zA-Z0-9][a-zA-Z0-9-]+)", text))
    taken = {option for option in known if _accepted(option) or _accepted(f"{option}=1")}
    assert len(known) > 100
    assert taken <= _HARMLESS, f"not judged: {sorted(taken - _HARMLESS)}"


_HARMLESS = {
    f"--{name}"
    for name in (
        "8-bit-output", "acls", "address", "atimes", "block-size", "blocking-io", "bwlimit", "cc", "checksum", "checksum-choice",
        "compress", "compress-choice", "compress-level", "compress-threads", "contimeout", "crtimes", "devices", "executability",
        "fsync", "group", "hard-links", "i-r", "ignore-times", "inc-recursive", "ipv4", "ipv6", "links", "max-alloc", "mkpath",
        "numeric-ids", "old-args", "one-file-system", "outbuf", "owner", "partial", "perms", "port", "preallocate", "protocol",
        "rsync-path", "skip-compress", "sockopts", "sparse", "specials", "super", "timeout", "times", "whole-file", "xattrs",
        "zc", "zl", "zt",
    )
}  # fmt: skip


def _accepted(option: str) -> bool:
    try:
        ssh(rsync_options=[option])
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(
    ("targets", "problem"),
    [
        ([DISK, DISK], "two targets have the same name"),
        ([DISK | {"default": True}, SSH | {"default": True}], "more than one target has default = true"),
        ([SSH | {"seed": "nobody"}], "target vps: seed = 'nobody' is no disk target of this vault"),
        ([], r"there must be a \[\[target\]\]"),
    ],
)
def test_targets_agree_with_each_other(targets: list[dict[str, object]], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        config.Vault.model_validate({"name": "home", "source": SOURCE, "target": targets})


def test_every_problem_has_a_line_of_its_own_with_the_targets_name() -> None:
    text = HOME.replace("2882", "0").replace('directory = "home"', 'directory = "/home"').replace('kind = "lastdst"', 'kind = "x"')
    with pytest.raises(ConfigInvalid) as caught:
        config.parse_vault("home", text)
    lines = caught.value.message.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["source.kind", "target seed.directory", "target vps.port"]


def test_a_target_without_a_name_is_counted() -> None:
    with pytest.raises(ConfigInvalid, match=r"target 1\.name"):
        config.parse_vault("home", '[source]\nkind="path"\npath="/d"\n[[target]]\nkind="disk"\nlabel="L"\ndirectory="d"\n')


@pytest.mark.parametrize("name", ["", "Home", "a-b", "../x", "a\n", "a" * 33])
def test_a_vaults_name_is_checked(name: str) -> None:
    with pytest.raises(ConfigInvalid, match="a vault's name must be"):
        config.parse_vault(name, HOME)


def test_a_vaults_name_is_not_in_its_file() -> None:
    with pytest.raises(ConfigInvalid, match=r"^name: not allowed here"):
        config.parse_vault("home", 'name = "home"\n' + HOME)


@pytest.mark.parametrize(
    "text",
    [
        "x = ",
        "[source",
        "a = 1\na = 2",
        pytest.param("x = " + "[" * 5000, id="deep"),
        pytest.param("x = " + "1" * 5000, id="long number"),
        "d = 2026-99-99",
        "\x00",
        "x = 1e999999",
    ],
)
def test_text_that_is_no_good_is_a_problem_not_a_crash(text: str) -> None:
    with pytest.raises(ConfigInvalid):
        config.parse_vault("home", text)
    with pytest.raises(ConfigInvalid):
        config.parse_settings(text)


_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
_TREES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3), max_leaves=6
)
_KEYS = st.sampled_from(["source", "limits", "target", "reconcile", "passphrase_command", "credential", "other"])


@given(_KEYS, st.sampled_from([None, "kind", "path", "name", "directory", "port", "label", "²", ""]), _TREES)
def test_no_document_crashes(key: str, below: str | None, value: object) -> None:
    """Whatever stands in a file: a vault or ConfigInvalid."""
    document: dict[str, Any] = {"source": dict(SOURCE), "target": [copy.deepcopy(DISK), copy.deepcopy(SSH)]}
    if below is None:
        document[key] = value
    elif key == "target":
        document["target"][0][below] = value
    else:
        document[key] = {below: value}
    with contextlib.suppress(ConfigInvalid):
        _validated(document)


def _validated(document: dict[str, Any]) -> config.Vault:
    try:
        return config.Vault.model_validate({"name": "home", **document})
    except ValidationError as error:
        raise ConfigInvalid(config._problems(error, document)) from None


@given(st.text(max_size=200))
def test_no_text_crashes(text: str) -> None:
    for parse in (config.parse_settings, lambda text: config.parse_vault("home", text)):
        with contextlib.suppress(ConfigInvalid):
            parse(text)


def _check(make: Any, *, good: bool) -> None:
    if good:
        make()
    else:
        with pytest.raises(ValueError, match=r"."):
            make()


def test_a_credential_excludes_a_command() -> None:
    with pytest.raises(ConfigInvalid, match="exclude each other"):
        config.parse_vault("home", 'credential = "x"\npassphrase_command = ["/bin/x"]\n' + HOME)


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".x", "a b"])
def test_a_credential_is_a_name(name: str) -> None:
    with pytest.raises(ConfigInvalid, match="credential"):
        config.parse_vault("home", f'credential = "{name}"\n' + HOME)
