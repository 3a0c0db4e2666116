# SPDX-License-Identifier: GPL-3.0-or-later
"""The recovery kit: what is printed can be typed back, errors are found where they are, and commands are right for each target."""

import html
import re
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offsited.core import config, kit
from offsited.errors import InvalidArgs

KEY = "b5cc8e016c76537c674f59bbbfef1d4e30822d808da1bfd1545e0b4a3c1bc8cd"
TEXT = """
[source]
kind = "path"
path = "/srv/<snapshot>"

[[target]]
name = "seed"
kind = "disk"
label = "OFFSITE"
directory = "home"

[[target]]
name = "vps"
kind = "ssh"
host = "backup@vps.example.org"
port = 2882
directory = "/srv/off site/home"
identity = "/etc/offsited/id_home"
rsync_options = ["-M--fake-super"]
"""
KIT = kit.Kit(config.parse_vault("home", TEXT), "some-id", "server", "2026-11-25 12:00", KEY)
keys = st.text("0123456789abcdef", min_size=64, max_size=64)


@given(keys)
def test_what_is_printed_can_be_typed_back(key: str) -> None:
    lines = kit.key_lines(key)
    assert len(lines) == kit.LINES
    assert "".join(kit.parse_line(number, line) for number, line in enumerate(lines, 1)) == key
    assert "".join(kit.parse_line(number, f" {line.upper().replace('-', ' ')}\n") for number, line in enumerate(lines, 1)) == key


@given(keys, st.integers(1, 4), st.integers(0, 15), st.sampled_from("0123456789abcdef"))
def test_one_wrong_digit_is_found(key: str, number: int, place: int, digit: str) -> None:
    """Unless one of 65,536 wrong ones happens to have the same check: then the proof finds it."""
    line = kit.key_lines(key)[number - 1].replace("-", "")
    wrong = line[:place] + digit + line[place + 1 :]
    if wrong == line or kit._check(number, wrong[:16]) == line[-4:]:
        return
    with pytest.raises(InvalidArgs, match=f"line {number}") as raised:
        kit.parse_line(number, wrong)
    assert wrong[:16] not in raised.value.message


@pytest.mark.parametrize("typed", ["", "b5cc8e01-6c76537c", "x" * 20, "b5cc8e01-6c76537c  0000 1", "b5cc8e01-6c76537c  00000"])
def test_what_is_no_line(typed: str) -> None:
    with pytest.raises(InvalidArgs, match="16 digits"):
        kit.parse_line(1, typed)


def test_lines_that_were_swapped_are_found() -> None:
    with pytest.raises(InvalidArgs, match="error in line 1"):
        kit.parse_line(1, kit.key_lines(KEY)[1])


def test_commands_of_a_disk() -> None:
    commands = kit.way(KIT.vault.target[0]).commands(by_key=False)
    assert commands[0] == "mount -o ro /dev/disk/by-label/OFFSITE /mnt"
    assert "gocryptfs -ro /mnt/home/current /run/clear" in commands
    assert commands[-2:] == ["umount /run/clear", "umount -l /mnt"]


def test_commands_of_a_host() -> None:
    commands = [shlex.split(command) for command in kit.way(KIT.vault.target[1]).commands(by_key=True)]
    assert commands[1] == [
        *("rsync", "-aH", "--numeric-ids", "-M--fake-super", "-e", "ssh -p 2882"),
        "backup@vps.example.org:/srv/off site/home/current/",
        "/srv/encrypted/",
    ]
    assert ["gocryptfs", "-ro", "-aessiv", "-masterkey=stdin", "/srv/encrypted", "/run/clear"] in commands


def test_a_host_behind_another_one() -> None:
    target = KIT.vault.target[1].model_copy(update={"jump": "j@gate:2022", "port": 22})
    assert "-e 'ssh -J j@gate:2022'" in kit.way(target).commands(by_key=False)[1]


def test_text_and_page_say_the_same() -> None:
    text = kit.text(KIT, "QR")
    page = kit.page(KIT, "<svg></svg>")
    shown = html.unescape(re.sub(r"<style>.*?</style>|<[^>]+>", "", page, flags=re.DOTALL))
    for target in KIT.vault.target:
        for command in kit.way(target).commands(by_key=False):
            assert f"    {command}\n" in text
            assert f"{command}\n" in f"{shown}\n".replace("</pre>", "\n")
    for line in kit.key_lines(KEY):
        assert line in text
        assert line in shown
    for fact in kit.facts(KIT):
        assert fact in text
        assert fact in shown
    assert "<snapshot>" not in page
    assert "size: A4" in page


def test_the_text_fits_a_page() -> None:
    """With two targets, and a code of 19 lines: 72 lines of 8 points are 203 mm."""
    text = kit.text(KIT, "\n".join(["#"] * 19))
    assert len(text.splitlines()) <= 72
