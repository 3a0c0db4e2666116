# SPDX-License-Identifier: GPL-3.0-or-later
"""The life of a seed: filled at home, sealed, carried to the remote, adopted there, and only what has changed since goes over the line."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import MakeDisk, MakeVault
from .disks import Disk
from .machine import must, offsitectl, shown
from .remote import Remote, at_remote
from .trees import census, differences, plant
from .vaults import FIRST, THIRD, Vault

BULK = 20_000_000
CHANGED = 400_000
OVERHEAD = 200_000
"""Bytes that a sync may send beside what has changed, and a tenth of that."""


class Seed:
    """A vault with a disk `seed` and its heir `vps`, where the timer goes."""

    def __init__(self, vault: Vault, disk: Disk, remote: Remote, key: Path) -> None:
        self.vault, self.disk, self.remote = vault, disk, remote
        self.first = vault.root / FIRST
        plant(self.first)
        (self.first / "bulk").write_bytes(os.urandom(BULK))
        vault.point_at(self.first)
        made = vault.init(f"seed=disk:UUID={disk.uuid}/store", f"vps={remote.spec}/store", key=key)
        vault.edit(r'^kind = "ssh"\n', 'kind = "ssh"\nseed = "seed"\ndefault = true\n')
        remote.let_in(made.json["authorized_keys"])

    def target(self, name: str) -> dict[str, Any]:
        """What status says of a target."""
        vault = offsitectl("status", self.vault.name, "--json").json["vaults"][0]
        return next(target for target in vault["targets"] if target["name"] == name)

    def stages(self) -> tuple[str, str]:
        return self.target("seed")["stage"], self.target("vps")["stage"]

    def seal(self) -> list[str]:
        """Seal the disk, take it out, and return the commands for the remote."""
        ended = offsitectl("target", "seal", self.vault.name, "seed", "--json")
        assert ended.status == 0, ended.told
        self.disk.detach()
        return [line.strip() for line in ended.json["told"] if line.startswith("    ")]

    @contextlib.contextmanager
    def there(self, commands: list[str]) -> Iterator[None]:
        """The disk at the remote, brought into place by these commands."""
        device = at_remote(f"losetup --find --show {self.disk.image} && udevadm settle").splitlines()[-1]
        try:
            at_remote("\n".join(["set -e", *commands]))
            yield
        finally:
            at_remote(
                f"umount --quiet {self.remote.directory}; sed -i '\\|{self.remote.directory}|d' /etc/fstab; losetup --detach {device}"
            )

    def adopt(self) -> tuple[int, str]:
        ended = offsitectl("target", "adopt", self.vault.name, "vps", "--from", "seed")
        return ended.status, ended.told


@pytest.fixture
def seed(vault: MakeVault, disk: MakeDisk, remote: Remote, key: Path) -> Seed:
    return Seed(vault(), disk(), remote, key)


def sent() -> int:
    """Bytes that have gone over the line to the remote."""
    return int(Path("/sys/class/net/net0/statistics/tx_bytes").read_text())


def test_a_seed_is_filled_sealed_carried_and_adopted(seed: Seed, tmp_path: Path) -> None:
    assert seed.vault.synced("--timed")["target"] == "seed"
    assert seed.stages() == ("seeding", "seeding")
    assert offsitectl("verify", seed.vault.name, "--timed", "--json").json["target"] == "seed"
    early = seed.vault.sync("--target", "vps")
    assert early.status == 5
    assert "waits for its seed" in early.told

    commands = seed.seal()
    assert seed.stages() == ("sealed", "sealed")
    waiting = seed.vault.sync("--timed")
    assert waiting.status == 5
    assert "on its way" in waiting.told
    assert seed.target("vps")["last_outcome"] == "in-transit"
    assert offsitectl("verify", seed.vault.name, "--timed").status == 5
    to_do = offsitectl("status", seed.vault.name).stdout
    assert f"offsitectl target adopt {seed.vault.name} vps --from seed" in to_do

    second = seed.vault.next_snapshot(seed.first, bulk=0)
    (second / "bulk").unlink()
    (second / "new").write_bytes(os.urandom(CHANGED))
    must("rm", "-r", second / "names" / "-rf")
    with seed.there(commands[:-1]):
        before = sent()
        status, told = seed.adopt()
        assert status == 0, told
        assert seed.stages() == ("adopted", "adopted")
        assert seed.vault.synced("--timed")["target"] == "vps"
        assert sent() - before <= CHANGED * 1.1 + OVERHEAD
        assert seed.stages() == ("live", "live")
        assert differences(census(second), seed.vault.restored(tmp_path / "second", target="vps")) == []
    _comes_home(seed, second)


def _comes_home(seed: Seed, second: Path) -> None:
    """It has what was committed at the remote: the next sync here goes on from there."""
    seed.disk.attach()
    third = seed.vault.next_snapshot(second, THIRD)
    (third / "newer").write_text("newer")
    told = seed.vault.synced("--target", "seed")
    assert told["sent_bytes"] == len("newer")
    assert told["deleted_entries"] == 0


def test_what_is_sealed_is_clean_and_mounted_nowhere(seed: Seed) -> None:
    """Whoever has it mounted keeps it from being sealed; afterwards stock tools find nothing to mend."""
    with seed.disk.mounted(writing=True):
        ended = offsitectl("target", "seal", seed.vault.name, "seed")
        assert ended.status == 1
        assert "not safe to remove" in ended.told
        assert seed.target("seed")["sealed"] == 0
    seed.seal()
    seed.disk.attach()
    must("xfs_repair", "-n", seed.disk.device)
    assert seed.vault.sync("--timed").status == 5, "a timer broke the seal"
    assert seed.vault.synced("--target", "seed")["outcome"] == "done"
    assert seed.stages() == ("seeding", "seeding")


def test_what_is_not_the_seed_is_not_adopted(seed: Seed) -> None:
    """Nothing there, something taken away, and an older state of the disk."""
    seed.vault.synced("--timed")
    older = seed.disk.image.with_suffix(".older")
    must("cp", "--sparse=always", seed.disk.image, older)
    (seed.vault.next_snapshot(seed.first) / "new").write_text("new")
    commands = seed.seal()
    status, told = seed.adopt()
    assert (status, "there is nothing" in told) == (1, True), told
    with seed.there(commands[:-1]):
        at_remote(f'cd {seed.remote.directory}/store/current && rm "$(find . -type f -size +19000k)"')
        status, told = seed.adopt()
        assert (status, "bulk: missing" in told) == (8, True), told
        assert seed.stages() == ("sealed", "sealed")
        assert seed.vault.sync("--timed").status == 5
    must("mv", older, seed.disk.image)
    with seed.there(commands[:-1]):
        status, told = seed.adopt()
        assert (status, "older commit" in told) == (1, True), told


def test_a_seed_that_was_copied_for_an_account_without_rights(seed: Seed, tmp_path: Path) -> None:
    """By the commands that seal tells where rsync keeps owners by fake-super."""
    at_remote(f"useradd --create-home keeper && mkdir -p {seed.remote.directory}")
    try:
        seed.vault.edit("root@remote", "keeper@remote")
        seed.vault.edit(r'^seed = "seed"\n', 'seed = "seed"\nrsync_options = ["-M--fake-super"]\n')
        at_remote("install -d -o keeper -m 700 ~keeper/.ssh && cp /root/.ssh/authorized_keys ~keeper/.ssh/ && chown keeper ~keeper/.ssh/*")
        seed.vault.synced("--timed")
        commands = seed.seal()
        with seed.there([command for command in commands if "offsitectl" not in command]):
            status, told = seed.adopt()
            assert status == 0, told
            second = seed.vault.next_snapshot(seed.first)
            (second / "new").write_bytes(os.urandom(CHANGED))
            before = sent()
            seed.vault.synced("--timed")
            assert sent() - before <= CHANGED * 1.1 + OVERHEAD
            assert differences(census(second), seed.vault.restored(tmp_path / "second", target="vps")) == []
    finally:
        at_remote("userdel --force --remove keeper")


def test_a_reminder_a_week_while_the_seed_is_on_its_way(seed: Seed) -> None:
    """The judgment's own tests know the rest; here, that the records and the vault file lead there."""
    seed.vault.synced("--timed")
    seed.seal()
    seed.vault.sync("--timed")
    must("systemctl", "start", "offsited-watch.service")
    remembered = (seed.vault.directory / "state/notices/remembered.json").read_text()
    assert '"transit:vps"' in remembered
    assert "stale" not in remembered
    assert shown("offsited-watch.service", "Result") == "success"
