# SPDX-License-Identifier: GPL-3.0-or-later
"""Making a host known, as a person does it: compared, pinned, and replaced only when told."""

from pathlib import Path

import pytest

from .asking import Terminal
from .conftest import MakeVault
from .machine import Ended, must, offsitectl, write
from .remote import HOST, HOST_ADDRESS, KEYS, Remote, at_remote, host_key
from .trees import census, differences
from .vaults import ETC, FIRST, Vault

KNOWN_HOSTS = ETC / "known_hosts"


@pytest.fixture
def stranger(vault: MakeVault, remote: Remote, key: Path) -> Vault:
    """A vault whose host is not known yet, and lets it in."""
    made = vault()
    made.snapshot()
    remote.let_in(made.init(f"vps={remote.spec}", key=key).json["authorized_keys"])
    KNOWN_HOSTS.unlink()
    return made


@pytest.fixture
def other(tmp_path: Path) -> str:
    """A host key that is not the remote's: kind and key."""
    must("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other")
    return " ".join((tmp_path / "other.pub").read_text().split()[:2])


def fingerprint(line: str = "") -> str:
    """Of a line of known_hosts, or of the remote's own, as stock ssh-keygen says it."""
    return must("ssh-keygen", "-l", "-f", "-", stdin=line or host_key()).split()[1]


def trust(vault: Vault, *arguments: str) -> Ended:
    return offsitectl("target", "trust", vault.name, "vps", "--json", *arguments)


def test_a_fingerprint_that_was_brought_along_pins_without_asking(stranger: Vault) -> None:
    assert stranger.sync().json["reason"] == "host-key-unknown"
    assert f"offsitectl target trust {stranger.name} vps" in stranger.sync().told
    told = trust(stranger, "--fingerprint", fingerprint()).json
    assert told["hosts"] == [{"host": HOST, "type": "ssh-ed25519", "fingerprint": fingerprint(), "previous": [], "pinned": True}]
    assert KNOWN_HOSTS.read_text() == host_key()
    assert KNOWN_HOSTS.stat().st_mode & 0o777 == 0o600
    stranger.synced()
    assert trust(stranger).json["hosts"][0]["pinned"] is False


def test_another_key_than_the_one_brought_along_is_refused(stranger: Vault, other: str) -> None:
    ended = trust(stranger, "--fingerprint", fingerprint(f"x {other}"))
    assert ended.status == 1
    assert fingerprint() in ended.told
    assert not KNOWN_HOSTS.exists()


def test_where_nobody_can_be_asked_nothing_is_pinned(stranger: Vault) -> None:
    ended = offsitectl("target", "trust", stranger.name, "vps")
    assert (ended.status, KNOWN_HOSTS.exists()) == (2, False)
    assert "--fingerprint" in ended.told


@pytest.mark.parametrize(("answer", "pinned"), [("y", True), ("n", False)])
def test_a_person_compares(stranger: Vault, *, answer: str, pinned: bool) -> None:
    terminal = Terminal("offsitectl", "target", "trust", stranger.name, "vps")
    try:
        assert fingerprint() in terminal.until("Trust it?")
        terminal.type(answer)
        assert (terminal.status() == 0) is pinned
    finally:
        terminal.leave()
    assert KNOWN_HOSTS.exists() is pinned


def test_a_changed_key_is_said_plainly_and_replaced_only_when_told(stranger: Vault, other: str) -> None:
    bystander = f"elsewhere.example {other}\n"
    write(KNOWN_HOSTS, f"{HOST} {other}\n{bystander}")
    must("ssh-keygen", "-H", "-f", KNOWN_HOSTS)  # hashed names are found too
    assert stranger.sync().json["reason"] == "host-key-changed"
    before = KNOWN_HOSTS.read_text()
    refused = offsitectl("target", "trust", stranger.name, "vps")
    assert refused.status == 2
    assert {fingerprint(), fingerprint(f"x {other}")} <= set(refused.told.split())
    assert KNOWN_HOSTS.read_text() == before
    told = trust(stranger, "--fingerprint", fingerprint()).json["hosts"][0]
    assert (told["previous"], told["pinned"]) == ([fingerprint(f"x {other}")], True)
    stranger.synced()
    assert must("ssh-keygen", "-F", "elsewhere.example", "-f", KNOWN_HOSTS)


def test_a_key_of_another_kind_that_is_pinned_stays(stranger: Vault) -> None:
    """The host has several: the one that is pinned is asked for first."""
    at_remote(
        "test -e /etc/ssh/ssh_host_rsa_key || { ssh-keygen -q -t rsa -N '' -f /etc/ssh/ssh_host_rsa_key && systemctl restart ssh.service; }"
    )
    try:
        write(KNOWN_HOSTS, f"{HOST} {' '.join(at_remote('cat /etc/ssh/ssh_host_rsa_key.pub').split()[:2])}\n")
        told = trust(stranger).json["hosts"][0]
        assert (told["type"], told["pinned"]) == ("ssh-rsa", False)
        stranger.synced()
    finally:
        at_remote("rm /etc/ssh/ssh_host_rsa_key* && systemctl restart ssh.service")


def test_a_host_that_does_not_answer(stranger: Vault) -> None:
    stranger.set_target("port = 9")
    ended = trust(stranger)
    assert ended.status == 5
    assert f"[{HOST}]:9" in ended.told


def test_by_way_of_a_jump_host(stranger: Vault, remote: Remote, tmp_path: Path) -> None:
    """By another name the remote is another host to ssh. Both are pinned, and jobs go that way: without the first one's key they cannot."""
    line = at_remote(f"sed 's/^restrict /restrict,port-forwarding /' {KEYS}")
    stranger.set_target(f'jump = "root@{HOST_ADDRESS}:22"')
    halfway = trust(stranger, "--fingerprint", fingerprint())
    assert (halfway.status, "port-forwarding" in halfway.told) == (5, True)
    remote.let_in(line)
    told = trust(stranger, "--fingerprint", fingerprint()).json["hosts"]
    assert [(hop["host"], hop["pinned"]) for hop in told] == [(HOST_ADDRESS, False), (HOST, True)]
    stranger.synced()
    assert differences(census(stranger.root / FIRST), stranger.restored(tmp_path / "to")) == []
    write(KNOWN_HOSTS, host_key())
    assert stranger.sync().json["reason"] == "host-key-unknown"
    assert offsitectl("check-config").told.count(f"{HOST_ADDRESS} is not known yet: offsitectl target trust {stranger.name} vps") == 1
