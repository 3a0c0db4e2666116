# SPDX-License-Identifier: GPL-3.0-or-later
"""ssh as values."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
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
        "connecttimeout 15",
        "serveraliveinterval 5",
        "serveralivecountmax 6",
        "controlmaster auto",
        f"controlpath {tmp_path}/control",
        "controlpersist 120",
    } <= set(seen)
    assert [line for line in seen if line.startswith("identityfile ")] == [f"identityfile {identity}"]


def test_a_jump_host_is_reached_by_the_same_key_and_known_hosts(tmp_path: Path) -> None:
    """What the shell makes of ssh's ProxyCommand is a command line with all of it, and with the host that ssh puts in."""
    identity = tmp_path / "my key %h"
    target = TARGET.model_copy(update={"identity": str(identity), "jump": "j@[fd00::1]:2022"})
    tool = tmp_path / "tool"
    tool.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    tool.chmod(0o700)
    command = ssh.command(str(tool), target, tmp_path / "known", tmp_path / "control")
    (proxy,) = (word.removeprefix("-oProxyCommand=") for word in command if word.startswith("-oProxyCommand="))
    put_in = proxy.replace("%%", "\0").replace("%h", "host").replace("%p", "22").replace("\0", "%")
    words = subprocess.run(["sh", "-c", f"exec {put_in}"], capture_output=True, text=True, check=True).stdout.splitlines()
    assert (tmp_path / "control.said").exists(), "what it complains of is kept"
    assert words[-4:] == ["-W", "[host]:22", "--", "j@fd00::1"]
    assert {
        "-p",
        "2022",
        str(identity),
        f"-oUserKnownHostsFile={tmp_path}/known",
        "-oBatchMode=yes",
        f"-oControlPath={tmp_path}/control-jump",
    } <= set(words)
    assert "-oStrictHostKeyChecking=yes" in words


@pytest.mark.parametrize(
    ("jump", "login", "port"),
    [("h", "h", 22), ("u@h", "u@h", 22), ("u@h:2022", "u@h", 2022), ("u@[fd00::1]", "u@fd00::1", 22), ("[fd00::1]:99", "fd00::1", 99)],
)
def test_a_jump_host_as_ssh_takes_it(jump: str, login: str, port: int) -> None:
    assert ssh.hop(jump) == (login, port)


@pytest.mark.parametrize(
    ("login", "port", "host"),
    [("u@H", 22, "h"), ("h", 2022, "[h]:2022"), ("u@[fd00::1]", 22, "fd00::1"), ("[fd00::1]", 99, "[fd00::1]:99")],
)
def test_a_host_as_known_hosts_has_it(login: str, port: int, host: str) -> None:
    assert ssh.known_as(login, port) == host


def test_a_fingerprint_is_that_of_ssh_keygen(tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    shown = subprocess.run(["ssh-keygen", "-lf", tmp_path / "key.pub"], capture_output=True, text=True, check=True).stdout.split()[1]
    line = f"h {(tmp_path / 'key.pub').read_text()}"
    (found,) = ssh.host_keys(f"# comment\n@revoked {line}\nh ssh-rsa broken\n{line}")
    assert (found.fingerprint, found.kind) == (shown, "ssh-ed25519")
    assert ssh.host_keys(found.line) == [found]


@given(st.text())
def test_no_known_hosts_file_crashes(text: str) -> None:
    for key in ssh.host_keys(text):
        key.fingerprint  # noqa: B018 - it must not raise


def test_the_host_is_added_by_rsync() -> None:
    assert "u@h" not in ssh.command("ssh", TARGET, Path("/k"), Path("/c"))
    assert ssh.location(TARGET) == "u@h:/srv/x"


@pytest.mark.parametrize(
    "words",
    [["ssh", "-p", "22"], ["ssh", "-i", "/etc/my keys/id"], ["ssh", 'a"b'], ["ssh", "a'b"], ["ssh", "a'b\"c d"], ["/opt/s s/h", "x"]],
)
def test_rsync_splits_it_into_the_same_words(words: list[str], tmp_path: Path) -> None:
    _check_words(words, tmp_path)


@settings(deadline=None)
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
        ("Connection to 10.77.0.2 port 22 timed out", R.TARGET_UNREACHABLE),
        ("Connection to h closed by remote host.", R.TARGET_UNREACHABLE),
        ("ssh: connect to host h port 22: No route to host", R.TARGET_UNREACHABLE),
        ("ssh: connect to host h port 22: Network is unreachable", R.TARGET_UNREACHABLE),
        ("ssh: Could not resolve hostname h: Name or service not known", R.TARGET_UNREACHABLE),
        ("kex_exchange_identification: read: Connection reset by peer", R.TARGET_UNREACHABLE),
        ("Timeout, server h not responding.", R.TARGET_UNREACHABLE),
        ("No ED25519 host key is known for h and you have requested strict checking.\nHost key verification failed.", R.HOST_KEY_UNKNOWN),
        ("@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.", R.HOST_KEY_CHANGED),
        ("u@h: Permission denied (publickey).", R.TARGET_REFUSED),
        ("channel 0: open failed: administratively prohibited: open failed\nstdio forwarding failed", R.TARGET_REFUSED),
        ("Received disconnect from h port 22:2: Too many authentication failures", R.TARGET_REFUSED),
        ('Load key "/etc/offsited/id_home": error in libcrypto: invalid\nu@h: Permission denied (publickey).', R.TARGET_REFUSED),
        ("no such identity: /root/.ssh/id: No such file or directory\nu@h: Permission denied (publickey).", R.TARGET_REFUSED),
        ("bash: line 1: rsync: command not found", R.RSYNC_MISSING),
        ("sh: 1: rsync: not found", R.RSYNC_MISSING),
        ("/usr/bin/rrsync error: option --delete has been disabled on this server.", R.RRSYNC_REFUSED),
        ("/usr/bin/rrsync error: post-realpath open failed (race detected): /x/ No such file or directory", R.RRSYNC_REFUSED),
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
