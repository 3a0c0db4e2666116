# SPDX-License-Identifier: GPL-3.0-or-later
"""A real system's own files, synced, restored on a bare machine, and compared by rsync: attributes, ACLs, capabilities, links, nodes.

OFFSITED_SYSTEM_TREE=1 takes much more of the system, and every file system: tests/run system -k system_tree.
"""

import os
import shutil
from pathlib import Path

import pytest

from .conftest import MakeDisk, MakeVault
from .machine import must, offsitectl, run
from .test_bare import forget
from .vaults import FIRST

CAMPAIGN = bool(os.environ.get("OFFSITED_SYSTEM_TREE"))
FILE_SYSTEMS = ("ext4", "xfs", "btrfs") if CAMPAIGN else ("ext4",)
PARTS = ("/etc", "/usr/sbin", "/usr/lib/python3", "/usr/share/zoneinfo", "/var/lib/dpkg") if CAMPAIGN else ("/etc",)
SIZE = (2 << 30) if CAMPAIGN else (320 << 20)
LOST_FOUND = "--exclude=/lost+found"


def system(top: Path) -> None:
    """Parts of this system, and what is rare in it."""
    top.mkdir(parents=True)
    for part in PARTS:
        must("rsync", "-aHAXS", "--relative", part, f"{top}/")
    special = top / "special"
    special.mkdir()
    shutil.copy("/usr/bin/true", special / "capable")
    must("setcap", "cap_net_raw,cap_net_admin=ep", special / "capable")
    (special / "acl").mkdir()
    must("setfacl", "-m", "u:1234:rwx,d:g:5678:r-x", special / "acl")
    (special / "acl/file").write_text("inherits")
    must("setfacl", "-m", "u:1:r", special / "acl/file")
    for name, *node in (("null", "c", "1", "3"), ("loop", "b", "7", "9"), ("pipe", "p")):
        must("mknod", "-m", "640", special / name, *node)
    must("truncate", "--size=5M", special / "sparse")
    os.link(special / "sparse", special / "linked")
    must("touch", "-d", "1999-12-31 23:59:59.123456789", special / "sparse")


def compared(one: Path, other: Path) -> str:
    """What rsync would have to do to make `other` equal to `one`, by content and every attribute; "" = nothing."""
    options = ("-aHAXn", "--checksum", "--delete", "--numeric-ids", "--modify-window=-1", "--itemize-changes", LOST_FOUND)
    return must("rsync", *options, f"{one}/", f"{other}/")


@pytest.mark.parametrize("file_system", FILE_SYSTEMS)
def test_a_system_comes_back(vault: MakeVault, disk: MakeDisk, key: Path, file_system: str, tmp_path: Path) -> None:
    source, target, back = (disk(file_system, size=SIZE) for _ in range(3))
    made = vault()
    snapshot = made.root / FIRST
    with source.mounted(writing=True) as top:
        system(top / "system")
        snapshot.mkdir(parents=True)
        must("mount", "--bind", top / "system", snapshot)
        try:
            made.point_at(snapshot)
            made.init(f"disk=disk:UUID={target.uuid}", key=key)
            synced = made.sync()
            assert synced.json["outcome"] == "done", synced.told
            forget(made)
            with back.mounted(writing=True) as to:
                spec = f"disk:UUID={target.uuid}/{made.name}"
                ended = offsitectl("restore", "--from", spec, "--to", to / "system", "--passphrase-file", "-", stdin=made.passphrase)
                assert ended.status == 0, ended.told
                assert compared(snapshot, to / "system") == ""
                assert compared(to / "system", snapshot) == ""
                used = [int(must("du", "--block-size=1", "-s", where / "special/sparse").split()[0]) for where in (snapshot, to / "system")]
                assert max(used) < 1 << 20, "holes are holes"
        finally:
            run("umount", snapshot)
