# SPDX-License-Identifier: GPL-3.0-or-later
"""rsync as values: what each command may do, and what every end of it means. With the real program: tests/unit/worker/test_transfer.py."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offsited.core import rsync
from offsited.core.outcome import Reason
from offsited.core.rsync import Meaning, Place

R = Reason
VIEW, LIST = Path("/run/j/view/current"), Path("/run/j/list")
PLACE = Place("u@h:/srv/x", "/srv/x", ("--rsh=ssh", "--bwlimit=4M"), ("--fsync",), ("chown",))

SENDING = [
    rsync.send_listed("rsync", VIEW, PLACE, LIST),
    rsync.send_listed("rsync", VIEW, PLACE, LIST, again=True),
    rsync.put("rsync", [VIEW], PLACE),
    rsync.send_trees("rsync", VIEW, PLACE, "a/b", LIST),
]
REPLACING = rsync.send_listed("rsync", VIEW, PLACE, LIST, force=True)
DELETING = [
    rsync.delete_listed("rsync", VIEW, PLACE, LIST),
    rsync.delete_by_example("rsync", VIEW, PLACE, LIST),
    REPLACING,
]
READING = [
    rsync.get_small("rsync", PLACE, LIST, VIEW),
    rsync.list_top("rsync", PLACE),
    rsync.fetch("rsync", PLACE, LIST, "/run/j/x/"),
    rsync.fetch_listed("rsync", PLACE, LIST, "/run/j/x/"),
]
CLEARING = rsync.empty_partial("rsync", VIEW, PLACE)
EVERY = [*SENDING, *DELETING, *READING, CLEARING]
INTO_MIRROR = [SENDING[0], SENDING[1], DELETING[0], REPLACING]


def _deletes(command: list[str]) -> list[str]:
    return [word for word in command if word.startswith(("--del", "--force", "--remove"))]


@pytest.mark.parametrize("command", SENDING + READING)
def test_what_sends_or_reads_never_deletes(command: list[str]) -> None:
    assert not _deletes(command)


def test_delete_itself_appears_for_partial_files_alone() -> None:
    """They are no part of the mirror."""
    assert [command for command in EVERY if "--delete" in command] == [CLEARING]
    assert CLEARING[-1] == "u@h:/srv/x/partial/"


def test_nothing_is_deleted_by_what_a_sender_misses_unless_it_is_listed() -> None:
    """`--delete-missing-args` takes the list; sending in place of a directory deletes no missing one."""
    assert [command for command in EVERY if "--delete-missing-args" in command] == DELETING[:2]


def test_sending_again_is_asked_for() -> None:
    assert ["--ignore-times" in command for command in SENDING] == [False, True, False, False]
    assert "--ignore-times" not in REPLACING


@pytest.mark.parametrize(
    ("options", "narrow", "lanes"), [((), False, 4), ((), True, 1), (("--bwlimit=4M",), False, 1), (("--bwlimit", "9"), False, 1)]
)
def test_how_many_transfers_a_place_takes_at_once(options: tuple[str, ...], narrow: bool, lanes: int) -> None:  # noqa: FBT001 - a table
    """A limit of the bandwidth is one of all of them."""
    assert Place("/x", "/x", options, narrow=narrow).lanes == lanes


def test_where_a_mirror_is() -> None:
    assert Place("/run/target", "/run/target").mirror == Path("/run/target/current")
    assert PLACE.mirror is None


def test_paths_in_a_command_line_are_taken_for_nothing_else() -> None:
    """Neither for options nor for hosts; the view's own path is not made at the target."""
    command = rsync.send_listed("rsync", VIEW, PLACE, [b"-e", b"host:x/y", b"\xff", b"."])
    paths = ["/run/j/view/./current/-e", "/run/j/view/./current/host:x/y", "/run/j/view/./current/\udcff", "/run/j/view/./current/."]
    assert command[-5:] == [*paths, "u@h:/srv/x/"]
    assert {"--relative", "--dirs"} <= set(command)


@pytest.mark.parametrize("command", DELETING)
def test_what_deletes_has_a_list_and_does_not_descend(command: list[str]) -> None:
    assert f"--files-from={LIST}" in command
    assert "--from0" in command
    assert not {"-r", "-a", "--recursive", *rsync._EXACT[:1]} & set(command)


@pytest.mark.parametrize("command", INTO_MIRROR)
def test_what_writes_into_the_mirror(command: list[str]) -> None:
    """Partial and temporary files lie outside `current/`; nanoseconds count; owners are numbers; what was sent is flushed."""
    assert {"--temp-dir=/srv/x/partial", "--partial-dir=/srv/x/partial", PLACE.exact_times, "--numeric-ids", "--fsync"} <= set(command)
    assert command[-2:] == [f"{VIEW.parent}/", "u@h:/srv/x/"]


def test_how_temporary_files_are_named() -> None:
    """On this machine relative: as an absolute path it took a receiver as long as everything else (3.5.0), and rrsync(1) refuses it."""
    here = Place("/run/j/target", "/run/j/target")
    assert here.scratch_options == ("--temp-dir=partial", "--partial-dir=/run/j/target/partial")
    assert PLACE.scratch_options == ("--temp-dir=/srv/x/partial", "--partial-dir=/srv/x/partial")


def test_whole_directories_go_from_where_they_are_to_where_they_will_be() -> None:
    """rsync of 3.5.0 walks every way component by component: source and destination are as deep as can be."""
    command = rsync.send_trees("rsync", VIEW, PLACE, "a/b", [b"-x", b"y"])
    assert command[-4:] == ["--relative", f"{VIEW}/a/b/./-x", f"{VIEW}/a/b/./y", "u@h:/srv/x/current/a/b/"]
    assert {"--recursive", "--partial-dir=/srv/x/partial", PLACE.exact_times, "--numeric-ids", "--fsync"} <= set(command)
    assert rsync.send_trees("rsync", VIEW, PLACE, "", LIST)[-2:] == [f"{VIEW}/", "u@h:/srv/x/current/"]


@pytest.mark.parametrize("command", EVERY)
def test_every_command_goes_by_the_targets_way(command: list[str]) -> None:
    assert command[0] == "rsync"
    assert {"--rsh=ssh", "--bwlimit=4M"} <= set(command)
    assert not any("inplace" in word or "append" in word or "size-only" in word for word in command)


@pytest.mark.parametrize("command", READING)
def test_what_only_reads_writes_nothing_there(command: list[str]) -> None:
    """Its target's side is a source."""
    assert not command[-1].startswith("u@h:") or "--list-only" in command


def test_a_host_is_told_of_nanoseconds_in_the_one_way_that_rrsync_lets_through() -> None:
    there = Place("u@h:/x", "/x", exact_times=rsync.TOLD_EXACT_TIMES)
    command = rsync.send_listed("rsync", VIEW, there, LIST)
    assert [word for word in command if "modify-window" in word] == ["-M--modify-window=-1"]


def test_what_is_fetched_by_list_keeps_no_attributes_and_does_not_descend() -> None:
    """Encrypted files lie in the destination meanwhile; owners and modes come from the manifest."""
    command = rsync.fetch_listed("rsync", PLACE, LIST, "/run/j/x/")
    assert not {"-a", "-r", "-o", "-g", "-D", *rsync._EXACT} & set(command)
    assert {"--from0", f"--files-from={LIST}", "--ignore-missing-args"} <= set(command)


def test_a_restore_makes_holes_and_keeps_links() -> None:
    command = rsync.restore("rsync", VIEW, "/to/", LIST)
    assert {"-aH", "-S", "--numeric-ids", "-r", f"--files-from={LIST}"} <= set(command)
    assert command[-2:] == [f"{VIEW}/", "/to/"]
    assert not any("files-from" in word for word in rsync.restore("rsync", VIEW, "/to/"))


def test_a_command_is_confined() -> None:
    assert rsync.confined("setpriv", (), ["x"])[1] == "--bounding-set=-all"
    assert rsync.confined("setpriv", ("chown", "mknod"), ["x", "-y"]) == [
        "setpriv", "--bounding-set=-all,+chown,+mknod", "--inh-caps=-all", "--ambient-caps=-all", "--no-new-privs", "--", "x", "-y",
    ]  # fmt: skip


_TABLE = {
    0: Meaning(R.NONE),
    10: Meaning(R.TARGET_UNREACHABLE, transient=True),
    12: Meaning(R.RSYNC_FAILED, transient=True),
    23: Meaning(R.RSYNC_PARTIAL),
    24: Meaning(R.SNAPSHOT_CHANGED),
    30: Meaning(R.TARGET_UNREACHABLE, transient=True),
    35: Meaning(R.TARGET_UNREACHABLE, transient=True),
    126: Meaning(R.RSYNC_MISSING),
    127: Meaning(R.RSYNC_MISSING),
    255: Meaning(R.TARGET_UNREACHABLE, transient=True),
}


@pytest.mark.parametrize("status", range(-64, 256))
def test_every_exit_status_is_judged_and_0_alone_is_success(status: int) -> None:
    meaning = rsync.exit_meaning(status)
    assert meaning == _TABLE.get(status, Meaning(R.RSYNC_FAILED))
    assert (meaning.reason is R.NONE) is (status == 0)
    assert rsync.judge(status, "") == meaning


@given(st.integers(min_value=-64, max_value=255), st.text() | st.sampled_from(["Permission denied (publickey).", "x (28)", "rsync: x"]))
def test_no_complaint_makes_a_failure_a_success(status: int, complaints: str) -> None:
    assert (rsync.judge(status, complaints).reason is R.NONE) is (status == 0)


@pytest.mark.parametrize(
    ("told", "version"),
    [
        ("rsync  version 3.5.0  protocol version 32\nCopyright (C) 1996-2026", (3, 5, 0)),
        ("rsync  version 3.2.6  protocol version 31\n", (3, 2, 6)),
        ("Welcome\nrsync  version v3.2.7dev  protocol version 31\n", (3, 2, 7)),
        ("openrsync: protocol version 29\nrsync version 2.6.9 compatible\n", (2, 6, 9)),
        ("", None),
    ],
)
def test_a_version(told: str, version: tuple[int, ...] | None) -> None:
    assert rsync.parse_version(told) == version


def test_how_rsync_is_called_at_the_host() -> None:
    assert rsync.remote_tool(()) == "rsync"
    assert rsync.remote_tool(("-z", "--rsync-path=/opt/a", "--rsync-path=sudo rsync")) == "sudo rsync"


CLOSED = "rsync: connection unexpectedly closed (0 bytes received so far) [sender]\n"
FULL = 'rsync: [receiver] write failed on "/srv/x/current/a": No space left on device (28)\n'
PIPE = "rsync: [sender] write error: Broken pipe (32)\n"


@pytest.mark.parametrize(
    ("status", "complaints", "meaning"),
    [
        (255, "ssh: connect to host h port 22: Connection refused\n" + CLOSED, Meaning(R.TARGET_UNREACHABLE, transient=True)),
        (255, "Host key verification failed.\n" + CLOSED, Meaning(R.HOST_KEY_UNKNOWN)),
        (12, "u@h: Permission denied (publickey).\n" + CLOSED, Meaning(R.TARGET_REFUSED)),
        (127, "bash: line 1: rsync: command not found\n" + CLOSED, Meaning(R.RSYNC_MISSING)),
        (12, CLOSED, Meaning(R.RSYNC_MISSING)),
        (12, CLOSED.replace("(0", "(10"), Meaning(R.RSYNC_FAILED, transient=True)),
        (12, "Connection to h port 22 timed out\n" + CLOSED, Meaning(R.TARGET_UNREACHABLE, transient=True)),
        (2, "protocol version mismatch -- is your shell clean?\n", Meaning(R.RSYNC_MISSING)),
        (11, FULL, Meaning(R.TARGET_FULL)),
        (23, 'rsync: [receiver] mkstemp "/srv/x/partial/.a.1" failed: Disk quota exceeded (122)\n', Meaning(R.TARGET_FULL)),
        (12, FULL + PIPE, Meaning(R.TARGET_FULL)),
        (10, FULL + PIPE, Meaning(R.TARGET_FULL)),
        (12, PIPE + FULL, Meaning(R.TARGET_FULL)),
        (12, PIPE, Meaning(R.TARGET_UNREACHABLE, transient=True)),
        (23, 'rsync: [receiver] mkstemp "/x/.a.1" failed: Read-only file system (30)\n', Meaning(R.TARGET_READ_ONLY)),
        (23, 'rsync: [generator] recv_generator: mkdir "/x/a" failed: Permission denied (13)\n', Meaning(R.TARGET_READ_ONLY)),
        (11, 'rsync: [Receiver] mkdir "/srv/x/y" failed: No such file or directory (2)\n', Meaning(R.TARGET_READ_ONLY)),
        (23, 'rsync: [sender] send_files failed to open "/x/a": Permission denied (13)\n', Meaning(R.RSYNC_PARTIAL)),
        (23, 'rsync: [sender] read errors mapping "/x/a": Input/output error (5)\n', Meaning(R.RSYNC_PARTIAL)),
        (0, FULL, Meaning(R.NONE)),
        (-9, "", Meaning(R.RSYNC_FAILED)),
    ],
)
def test_complaints_say_more(status: int, complaints: str, meaning: Meaning) -> None:
    assert rsync.judge(status, complaints) == meaning


@pytest.mark.parametrize(
    ("complaints", "absent"),
    [
        ('rsync: [sender] change_dir "/srv/x" failed: No such file or directory (2)', True),
        ('noise\nrsync: [sender] change_dir "/srv/x" failed: No such file or directory (2)\n' + CLOSED, True),
        ('rsync: [sender] change_dir "/srv/x" failed: Permission denied (13)', False),
        ("/usr/bin/rrsync error: post-realpath open failed (race detected): /x/ No such file or directory\n" + CLOSED, True),
        ("/usr/bin/rrsync error: Restricted directory does not exist!\n" + CLOSED, False),
        ('rsync: [sender] link_stat "/srv/x" failed: No such file or directory (2)', False),
        ("", False),
    ],
)
def test_a_directory_that_is_not_there(complaints: str, absent: bool) -> None:  # noqa: FBT001 - a table
    assert rsync.says_absent(complaints) is absent
