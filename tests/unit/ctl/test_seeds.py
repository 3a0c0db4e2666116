# SPDX-License-Identifier: GPL-3.0-or-later
"""What becomes of a sealed disk, in the commands that are printed. The system tests type them."""

import pytest

from offsited.core.config import DiskTarget, parse_vault
from offsited.ctl.seeds import journey

TEXT = """
[source]
kind = "path"
path = "/s"
[[target]]
name = "seed"
kind = "disk"
{disk}
directory = "home"
[[target]]
name = "vps"
kind = "ssh"
host = "{host}"
directory = "{directory}"
identity = "/i"
{more}
"""
MOUNT = "mount -o nosuid,nodev,noexec,noatime"
ADOPT = "offsitectl target adopt home vps --from seed"


def told(
    disk: str = 'uuid = "85ca06b8"', host: str = "root@h", directory: str = "/srv/offsite/home", more: str = 'seed = "seed"'
) -> list[str]:
    vault = parse_vault("home", TEXT.format(disk=disk, host=host, directory=directory, more=more))
    target = vault.find_target("seed")
    assert isinstance(target, DiskTarget)
    return [line.strip() for line in journey(vault, target)]


def test_a_disk_whose_directory_fits_is_mounted_above_it() -> None:
    assert told()[2:5] == [
        "mkdir -p /srv/offsite",
        f"{MOUNT} UUID=85ca06b8 /srv/offsite",
        "echo UUID=85ca06b8 /srv/offsite auto nosuid,nodev,noexec,noatime,nofail 0 0 >> /etc/fstab",
    ]
    assert told()[-1] == ADOPT


@pytest.mark.parametrize("directory", ["/srv/elsewhere", "/home", "/srv/athome"])
def test_another_directory_is_bound(directory: str) -> None:
    lines = told('label = "L"', directory=directory)
    assert f"{MOUNT} LABEL=L /mnt/offsited-seed" in lines
    assert f"mount --bind /mnt/offsited-seed/home {directory}" in lines


def test_an_account_that_is_not_roots_gets_a_copy() -> None:
    lines = told(host="backup@h", directory="/srv/of site", more='seed = "seed"\nrsync_options = ["-M--fake-super"]')
    copied = "rsync -aH --numeric-ids -M--fake-super -e 'runuser -u backup --' /mnt/offsited-seed/home/ env:'/srv/of site/'"
    assert copied in lines
    assert "chown backup: '/srv/of site'" in lines
    assert not any("fstab" in line for line in lines)


def test_a_disk_that_somebody_else_mounted_is_his_to_unmount() -> None:
    lines = told('uuid = "85ca06b8"\npath = "/mnt/my\'disk"')
    assert "safe to remove once" in lines[0]
    assert lines[1] == """umount '/mnt/my'"'"'disk'"""


def test_a_disk_that_nobody_waits_for_is_just_safe_to_remove() -> None:
    assert told(more="") == ["The disk is complete and unmounted: it is safe to remove."]
