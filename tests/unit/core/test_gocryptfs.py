# SPDX-License-Identifier: GPL-3.0-or-later
"""gocryptfs as values. That the real program sees it so: tests/unit/worker/test_view.py."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offsited.core import gocryptfs
from offsited.core.outcome import Reason

R = Reason


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (6, R.GOCRYPTFS_FAILED),
        (8, R.KEY_FILE_DAMAGED),
        (9, R.LOCKED),
        (10, R.GOCRYPTFS_FAILED),
        (11, R.KEY_FILE_DAMAGED),
        (12, R.WRONG_PASSPHRASE),
        (14, R.KEY_FILE_DAMAGED),
        (15, R.GOCRYPTFS_FAILED),
        (19, R.GOCRYPTFS_FAILED),
        (20, R.GOCRYPTFS_FAILED),
        (22, R.LOCKED),
        (23, R.KEY_FILE_DAMAGED),
        (27, R.KEY_FILE_DAMAGED),
        (1, R.GOCRYPTFS_FAILED),
        (-9, R.GOCRYPTFS_FAILED),
        (-15, R.GOCRYPTFS_FAILED),
    ],
)
def test_the_table_of_exit_statuses(status: int, reason: Reason) -> None:
    assert gocryptfs.exit_reason(status) is reason


@pytest.mark.parametrize("status", range(-64, 256))
def test_no_end_before_the_mount_is_a_success(status: int) -> None:
    """Not even 0; and the passphrase is called wrong by 12 alone."""
    reason = gocryptfs.exit_reason(status)
    assert reason is not R.NONE
    assert (reason is R.WRONG_PASSPHRASE) is (status == 12)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("gocryptfs 2.5.1; go-fuse 2.5.0; 2025-01-23 go1.24.4 linux/amd64", (2, 5, 1)),
        ("gocryptfs v2.6; go-fuse", (2, 6)),
        ("gocryptfs v2.5.1-12-gabc without_openssl; go-fuse", (2, 5, 1)),
        ("gocryptfs 2.3; go-fuse v2.1.1", (2, 3)),
        ("gocryptfs [GitVersion not set]", None),
        ("", None),
        ("fusermount 2.9", None),
    ],
)
def test_versions(text: str, version: tuple[int, ...] | None) -> None:
    assert gocryptfs.parse_version(text) == version


@given(st.text())
def test_no_version_crashes(text: str) -> None:
    assert gocryptfs.parse_version(text) is None
    gocryptfs.parse_version("gocryptfs " + text)


def test_the_passphrase_is_never_in_a_command_line() -> None:
    """It comes on standard input alone; and no option stands where a path could be taken for one."""
    here = Path("/x")
    mounts = [
        gocryptfs.reverse_mount("g", here, here, control=here, notify=1),
        gocryptfs.names_mount("g", here, here, key_file=here, notify=1),
        gocryptfs.forward_mount("g", "/x", here, key_file=here, notify=1),
        gocryptfs.init_command("g", here),
    ]
    for command in mounts:
        assert "-passfile=/dev/stdin" in command
        assert not any(word.startswith(("-masterkey", "-extpass")) for word in command)
        assert all(word.startswith("-") for word in command[1 : command.index("--")])


def test_a_forward_mount_is_read_only() -> None:
    assert "-ro" in gocryptfs.forward_mount("g", "/x", Path("/y"), key_file=Path("/k"), notify=1)


@given(st.integers(min_value=0, max_value=2**50))
def test_sizes_there_and_back(plain: int) -> None:
    assert gocryptfs.plain_size(gocryptfs.sealed_size(plain)) == plain


@pytest.mark.parametrize(("plain", "sealed"), [(0, 0), (1, 51), (4096, 4146), (4097, 4179), (8192, 8274)])
def test_sizes(plain: int, sealed: int) -> None:
    """doc/file-format.md: a header of 18 bytes; each block of 4096 has an IV and a tag of 16 bytes each."""
    assert gocryptfs.sealed_size(plain) == sealed


@given(st.integers(min_value=-5, max_value=2**50))
def test_no_size_crashes(sealed: int) -> None:
    assert gocryptfs.plain_size(sealed) <= max(sealed, 0)


@pytest.mark.parametrize(
    ("path", "companion"),
    [
        (b"gocryptfs.conf", True),
        (b"gocryptfs.diriv", True),
        (b"a/b/gocryptfs.diriv", True),
        (b"a/gocryptfs.longname.abc.name", True),
        (b"a/gocryptfs.longname.abc", False),
        (b"a/gocryptfs.longname.abc/x", False),
        (b"a/x.name", False),
        (b"a/", False),
        (b"", False),
    ],
)
def test_what_stands_for_no_entry(path: bytes, companion: bool) -> None:  # noqa: FBT001 - a table
    assert gocryptfs.is_companion(path) is companion


@pytest.mark.parametrize(
    ("path", "may_be"),
    [
        ("a/b-_9", True),
        ("gocryptfs.diriv", True),
        ("x/gocryptfs.longname.abc", True),
        ("x/gocryptfs.longname.abc.name", True),
        ("", False),
        ("x/", False),
        ("a b", False),
        ("lost+found", False),
        ("a\n", False),
        (".nfs01", False),
        ("\udcff", False),
        ("gocryptfs.longname.", False),
        ("\u0661", False),
    ],
)
def test_what_a_view_can_be_asked_about(path: str, may_be: bool) -> None:  # noqa: FBT001 - a table
    assert gocryptfs.may_be_shown(path) is may_be


def test_what_a_name_needs() -> None:
    long = "gocryptfs.longname.X"
    assert gocryptfs.companions("a") == ["gocryptfs.diriv"]
    assert gocryptfs.companions(f"a/{long}/b") == ["gocryptfs.diriv", "a/gocryptfs.diriv", f"a/{long}/gocryptfs.diriv", f"a/{long}.name"]


@given(st.lists(st.sampled_from(["a", "gocryptfs.longname.X", "b"]), min_size=1, max_size=6).map("/".join))
def test_every_companion_is_one(path: str) -> None:
    for needed in gocryptfs.companions(path):
        assert gocryptfs.is_companion(needed.encode())


def test_what_is_kept_for_a_name_proves_itself() -> None:
    iv = gocryptfs.expected_iv("abc/def")
    assert len(iv) == 16
    assert gocryptfs.is_companion_right("abc/def/gocryptfs.diriv", iv)
    assert not gocryptfs.is_companion_right("abc/gocryptfs.diriv", iv)
    assert not gocryptfs.is_companion_right("abc/def/gocryptfs.diriv", iv[:-1])
    digest = "XohImNooBHFR0OVvjcYpJ3NgPQ1qq73WKhHvch0VQtg"  # of the word password
    assert gocryptfs.is_companion_right(f"abc/gocryptfs.longname.{digest}.name", b"password")
    assert not gocryptfs.is_companion_right(f"abc/gocryptfs.longname.{digest}.name", b"Password")


@pytest.mark.parametrize(
    ("path", "directory", "found"),
    [
        ("a/b", False, ()),
        ("a/b", True, ("a/b/gocryptfs.diriv",)),
        ("a/gocryptfs.longname.x", False, ("a/gocryptfs.longname.x.name",)),
        ("gocryptfs.longname.x/b", False, ()),
        ("gocryptfs.longname.x", True, ("gocryptfs.longname.x.name", "gocryptfs.longname.x/gocryptfs.diriv")),
    ],
)
def test_what_belongs_to_a_path_alone(path: str, directory: bool, found: tuple[str, ...]) -> None:  # noqa: FBT001
    assert gocryptfs.own_companions(path, directory=directory) == found


@pytest.mark.parametrize(("memory", "limit"), [(1 << 30, 256 << 20), (4 << 30, 512 << 20), (64 << 30, 8 << 30)])
def test_a_mount_takes_its_share_of_the_memory(memory: int, limit: int) -> None:
    assert gocryptfs.environment(memory) == {"GOGC": "400", "GOMEMLIMIT": str(limit)}
