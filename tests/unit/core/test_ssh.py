# SPDX-License-Identifier: GPL-3.0-or-later
"""ssh as values."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offsited.core import ssh
from offsited.core.config import SshTarget
from offsited.core.outcome import Reason

R = Reason
TARGET = SshTarget(name="vps", kind="ssh", host="u@h", port=2882, directory="/srv/x", identity="/etc/offsited/id_home")


def test_nothing_asked_nothing_learnt_nobody_elses_keys(tmp_path: Path) -> None:
    """What ssh itself makes of the command line, whatever stands in the user's or the machine's configuration."""
    known, identity = tmp_path / "known_hosts", tmp_path / "id_home"
    identity.touch()
    command = ssh.command("ssh", TARGET.model_copy(update={"identity": str(identity)}), known, tmp_path / "control")
    seen = subprocess.run([command[0], "-G", *command[1:], "h"], capture_output=True, text=True, check=True).stdout.splitlines()
    assert {
        "batchmode yes",
        "stricthostkeychecking true",
        "updatehostkeys false",
        f"userknownhostsfile {known}",
        "globalknownhostsfile none",
        "identitiesonly yes",
        "identityagent none",
        f"identityfile {identity}",
        "preferredauthentications publickey",
        "clearallforwardings yes",
        "forwardx11 no",
        "forwardagent no",
        "port 2882",
        "connecttimeout 20",
        "serveraliveinterval 15",
        "serveralivecountmax 4",
        "controlmaster auto",
        f"controlpath {tmp_path}/control",
        "controlpersist 120",
    } <= set(seen)
    assert [line for line in seen if line.startswith("identityfile ")] == [f"identityfile {identity}"]


def test_the_host_is_added_by_rsync() -> None:
    assert "u@h" not in ssh.command("ssh", TARGET, Path("/k"), Path("/c"))
    assert ssh.location(TARGET) == "u@h:/srv/x"


@pytest.mark.parametrize(
    "words",
    [["ssh", "-p", "22"], ["ssh", "-i", "/etc/my keys/id"], ["ssh", 'a"b'], ["ssh", "a'b"], ["ssh", "a'b\"c d"], ["/opt/s s/h", "x"]],
)
def test_rsync_splits_it_into_the_same_words(words: list[str], tmp_path: Path) -> None:
    _check_words(words, tmp_path)


@given(st.lists(st.text(alphabet=" '\"ab\\$", min_size=1, max_size=5), min_size=1, max_size=3))
def test_rsync_splits_any_words_as_meant(tmp_path_factory: pytest.TempPathFactory, words: list[str]) -> None:
    _check_words(["x", *words], tmp_path_factory.mktemp("words"))


def _check_words(words: list[str], directory: Path) -> None:
    """The real rsync starts a program of ours as its remote shell."""
    shell = directory / "shell"
    seen = directory / "seen"
    shell.write_text(f'#!/bin/sh\nprintf "%s\\0" "$@" > {seen}\nexit 1\n')
    shell.chmod(0o700)
    command = ["rsync", f"--rsh={ssh.remote_shell([str(shell), *words])}", "host:/x", str(directory)]
    subprocess.run(command, capture_output=True, check=False)
    found = seen.read_bytes().decode().split("\0")
    assert found[: len(words) + 1] == [*words, "host"]


@pytest.mark.parametrize(
    ("complaints", "reason"),
    [
        ("ssh: connect to host h port 22: Connection refused", R.TARGET_UNREACHABLE),
        ("ssh: connect to host h port 22: Connection timed out", R.TARGET_UNREACHABLE),
        ("ssh: connect to host h port 22: No route to host", R.TARGET_UNREACHABLE),
        ("ssh: connect to host h port 22: Network is unreachable", R.TARGET_UNREACHABLE),
        ("ssh: Could not resolve hostname h: Name or service not known", R.TARGET_UNREACHABLE),
        ("kex_exchange_identification: read: Connection reset by peer", R.TARGET_UNREACHABLE),
        ("Timeout, server h not responding.", R.TARGET_UNREACHABLE),
        ("No ED25519 host key is known for h and you have requested strict checking.\nHost key verification failed.", R.HOST_KEY_UNKNOWN),
        ("@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.", R.HOST_KEY_CHANGED),
        ("u@h: Permission denied (publickey).", R.TARGET_REFUSED),
        ("Received disconnect from h port 22:2: Too many authentication failures", R.TARGET_REFUSED),
        ('Load key "/etc/offsited/id_home": error in libcrypto: invalid\nu@h: Permission denied (publickey).', R.TARGET_REFUSED),
        ("no such identity: /root/.ssh/id: No such file or directory\nu@h: Permission denied (publickey).", R.TARGET_REFUSED),
        ("bash: line 1: rsync: command not found", R.RSYNC_MISSING),
        ("sh: 1: rsync: not found", R.RSYNC_MISSING),
        ("bash: line 1: /opt/rsync: No such file or directory", R.RSYNC_MISSING),
        ('rsync: [sender] change_dir "/x" failed: No such file or directory (2)', None),
        ("", None),
        ("Welcome to h", None),
    ],
)
def test_what_complaints_mean(complaints: str, reason: Reason | None) -> None:
    assert ssh.meaning(complaints) is reason


@given(st.text())
def test_no_complaint_crashes(complaints: str) -> None:
    ssh.meaning(complaints)
