# SPDX-License-Identifier: GPL-3.0-or-later
"""The package comes and goes, and leaves nothing but what is the user's."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from .daemon import SERVICE, main_pid
from .machine import must, offsitectl, run, shown
from .trees import census, differences
from .vaults import BULK, ETC, VAR, OnDisk

SYSTEMDS_OWN = "/run/systemd/units/log-extra-fields:"
"""systemd 257 leaves one behind for every unit that had LogExtraFields=."""


@pytest.fixture
def reinstalled(package: Path) -> Iterator[None]:
    """Whatever happens, the package is there afterwards."""
    yield
    if run("dpkg-query", "--show", "--showformat=${db:Status-Status}", "offsited").stdout != "installed":
        must("dpkg", "--install", package)


def _files_of_ours() -> set[str]:
    """Files anywhere that carry our name, outside of the vault data and of what tests bring."""
    found = must("find", "/etc", "/usr", "/var/lib", "/var/cache", "/run", "-xdev", "-ipath", "*offsite*").splitlines()
    others = (str(ETC), str(VAR), "/var/lib/dpkg/", "/run/udev/", SYSTEMDS_OWN)
    return {path for path in found if not path.startswith(others)}


def test_purge_leaves_vault_data_alone_and_reinstall_finds_it(home: OnDisk, package: Path, reinstalled: None, tmp_path: Path) -> None:
    must("systemctl", "enable", "--now", f"offsited-sync@{home.vault.name}.timer", f"offsited-sync@{home.vault.name}.path")
    home.vault.synced()
    home.vault.lock()
    must("systemctl", "start", f"offsited-unlock@{home.vault.name}.service")
    kept = census(home.vault.directory), home.vault.file.read_text()
    assert _files_of_ours()

    must("dpkg", "--purge", "offsited")
    assert _files_of_ours() == set()
    assert not must("systemctl", "list-units", "--state=active,failed", "--plain", "--no-legend", "offsited*").strip()
    assert not run("systemctl", "list-unit-files", "--plain", "--no-legend", "offsited*").stdout
    assert run("pgrep", "--full", "bin/offsited").stdout == ""
    assert (census(home.vault.directory), home.vault.file.read_text()) == kept

    must("dpkg", "--install", package)
    assert home.vault.name in offsitectl("list").stdout.split()
    assert home.vault.is_locked(), "a removal ends what systemd keeps"
    assert home.vault.unlock().status == 0
    home.vault.synced()
    assert differences(census(home.first), home.vault.restored(tmp_path / "to")) == []


def test_an_upgrade_keeps_vaults_unlocked_and_jobs_running(home: OnDisk, package: Path) -> None:
    home.vault.next_snapshot(home.first, bulk=BULK)
    with home.vault.slow_sync() as job:
        before = main_pid()
        must("dpkg", "--install", package)
        assert main_pid() not in {0, before}
        assert shown(SERVICE, "ActiveState") == "active"
        assert not home.vault.is_locked()
        assert job.end()["outcome"] == "done"


def test_every_program_says_its_version_and_has_a_manual(package: Path) -> None:
    version = must("dpkg-deb", "--field", package, "Version").strip()
    assert version in offsitectl("--version").stdout
    listed = must("dpkg-deb", "--contents", package)
    for page in ("man1/offsitectl.1", "man8/offsited.8", "man5/offsited-vault.5", "man5/offsited.toml.5", "man7/offsited-dbus.7"):
        assert f"/usr/share/man/{page}" in listed
    for shell in ("bash-completion/completions/offsitectl", "vendor-completions/_offsitectl", "vendor_completions.d/offsitectl.fish"):
        assert shell in listed
