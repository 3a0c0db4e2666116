# SPDX-License-Identifier: GPL-3.0-or-later
"""The files that offsited reads and keeps on this machine."""

import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offsited import store as module
from offsited.core.outcome import Outcome
from offsited.core.record import JobRecord, Kind
from offsited.errors import ConfigInvalid, NoSuchVault
from offsited.store import Store, VaultFiles, write_whole

VAULT = '[source]\nkind="path"\npath="/data"\n[[target]]\nname="seed"\nkind="disk"\nlabel="L"\ndirectory="d"\n'


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "etc/vaults.d").mkdir(parents=True)
    (tmp_path / "var").mkdir()
    return Store(tmp_path / "etc", tmp_path / "var")


@pytest.fixture
def files(store: Store) -> VaultFiles:
    files = store.vault_files("home")
    files.create()
    return files


def record(job: int, vault: str = "home") -> JobRecord:
    return JobRecord(job=job, kind=Kind.SYNC, vault=vault, target="seed", unit="u", requested=1)


# --- replacing a file ------------------------------------------------------------------------------------------------


def test_a_file_is_replaced_whole_for_root_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old and longer")
    path.chmod(0o644)
    write_whole(path, b"new")
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"new", 0o600)
    assert os.listdir(tmp_path) == ["file"]


def test_a_mode_is_given_whatever_the_umask(tmp_path: Path) -> None:
    kept = os.umask(0o777)
    try:
        write_whole(tmp_path / "file", b"x", 0o644)
    finally:
        os.umask(kept)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


def test_what_an_interruption_left_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".file.tmp").write_text("half, and longer than what comes")
    write_whole(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


def test_the_content_is_durable_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fsync of the file, rename, fsync of the directory: in this order, or power loss can leave an empty file."""
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        steps.append("fsync " + Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    def renamed(path: Path, target: Path) -> Path:
        steps.append("rename")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    write_whole(tmp_path / "file", b"x")
    assert steps == ["fsync .file.tmp", "rename", f"fsync {tmp_path.name}"]


def test_a_failure_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_where_it_cannot_be_put_in_place_nothing_of_it_is_left(tmp_path: Path) -> None:
    """It may be a recovery kit, and the place a directory."""
    (tmp_path / "directory").mkdir()
    with pytest.raises(IsADirectoryError):
        write_whole(tmp_path / "directory", b"secret")
    assert os.listdir(tmp_path) == ["directory"]


def test_a_link_in_the_temporary_files_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("mine")
    (tmp_path / ".file.tmp").symlink_to("elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        write_whole(tmp_path / "file", b"new")
    assert (tmp_path / "elsewhere").read_text() == "mine"


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = [bytes((65 + number,)) * 50_000 for number in range(4)]
    write_whole(path, contents[0])
    done = threading.Event()
    seen: set[bytes] = set()

    def read() -> None:
        while not done.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(40):
            write_whole(path, contents[number % 4])
    finally:
        done.set()
        reader.join()
    assert seen <= set(contents)


# --- a vault's files -------------------------------------------------------------------------------------------------


def test_a_vaults_directories_are_for_root_alone_and_its_id_stays(files: VaultFiles) -> None:
    identity = files.identity()
    files.create()
    assert files.identity() == identity
    assert {path.relative_to(files.directory).as_posix() for path in files.directory.rglob("*")} == {
        "plain", "plain/backup", "plain/offsited", "state", "state/jobs", "state/targets", "state/vault.json",
    }  # fmt: skip
    assert files.plain.stat().st_mode & 0o777 == 0o700
    assert files.key_file == files.plain / ".gocryptfs.reverse.conf"


def test_ids_differ(store: Store) -> None:
    ids = set()
    for name in ("one", "two"):
        store.vault_files(name).create()
        ids.add(store.vault_files(name).identity())
    assert len(ids) == 2


@pytest.mark.parametrize("content", [None, b"", b"{}", b'{"id": 1}', b"\xff"])
def test_an_id_that_is_lost_is_an_error_not_a_new_id(files: VaultFiles, content: bytes | None) -> None:
    (files.state / "vault.json").unlink()
    if content is not None:
        (files.state / "vault.json").write_bytes(content)
    with pytest.raises(ConfigInvalid):
        files.identity()


def test_which_arrival_was_heeded_is_kept_for_each_target(files: VaultFiles, store: Store) -> None:
    assert files.arrival("seed") == ""
    files.write_arrival("seed", "boot:7")
    assert (files.arrival("seed"), files.arrival("other")) == ("boot:7", "")
    (files.target("seed") / "arrival.json").write_text("{")
    assert files.arrival("seed") == ""
    gone = store.vault_files("gone")
    with pytest.raises(FileNotFoundError):
        gone.write_arrival("seed", "boot:7")
    assert not gone.directory.exists()


def test_records_are_kept_and_read_newest_first(files: VaultFiles) -> None:
    for job in (2, 10, 1):
        files.write_record(record(job))
    files.write_record(record(2).model_copy(update={"outcome": Outcome.DONE}))
    assert files.job_ids() == [10, 2, 1]
    assert [(found.job, found.outcome) for found in files.records()] == [(10, None), (2, Outcome.DONE), (1, None)]
    assert files.read_record(3) is None


@pytest.mark.parametrize("name", ["x.json", "-1.json", "1.txt", ".1.json.tmp", "²٣.json", "²", "1.json.json"])
def test_what_else_lies_there_is_passed_over(files: VaultFiles, name: str) -> None:
    files.write_record(record(5))
    (files.jobs / name).write_text("{}")
    assert files.job_ids() == [5]
    assert [found.job for found in files.records()] == [5]


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b'{"job": 1'])
def test_a_damaged_record_is_passed_over(files: VaultFiles, content: bytes) -> None:
    files.write_record(record(5))
    (files.jobs / "7.json").write_bytes(content)
    (files.jobs / "8.json").mkdir()
    assert files.read_record(7) is None
    assert files.read_record(8) is None
    assert [found.job for found in files.records()] == [5]


def test_a_vault_without_state_has_no_records(store: Store) -> None:
    assert store.vault_files("home").job_ids() == []
    assert list(store.vault_files("home").records()) == []


def test_the_oldest_records_go_but_not_those_to_keep(files: VaultFiles) -> None:
    for job in range(1, 11):
        files.write_record(record(job))
    files.prune_records(frozenset({2}), limit=3)
    assert files.job_ids() == [10, 9, 8, 2]
    files.prune_records(frozenset())
    assert files.job_ids() == [10, 9, 8, 2], "a thousand are kept"
    assert module.JOBS_KEPT == 1000


# --- configuration ---------------------------------------------------------------------------------------------------


def test_vaults_are_found_by_their_files(store: Store) -> None:
    directory = store.etc / "vaults.d"
    for name in ("b.toml", "a.toml", ".hidden.toml", "c.txt", "d.toml~", "Bad-Name.toml"):
        (directory / name).touch()
    assert store.vault_names() == ["Bad-Name", "a", "b"]
    assert Store(store.etc / "missing").vault_names() == []


def test_a_vault_is_read(store: Store) -> None:
    store.vault_file("home").write_text(VAULT)
    assert store.read_vault("home").target[0].name == "seed"


@pytest.mark.parametrize("name", ["other", "../home", "", "Home", "a/b", "a\0b", "x" * 300])
def test_a_vault_that_is_not_there(store: Store, name: str) -> None:
    with pytest.raises(NoSuchVault) as caught:
        store.read_vault(name)
    assert "offsitectl list" in caught.value.hint


def test_what_is_wrong_is_said_with_file_and_key(store: Store) -> None:
    path = store.vault_file("home")
    path.write_text(VAULT.replace("/data", "data").replace('"disk"', '"disk"\nx=1'))
    with pytest.raises(ConfigInvalid) as caught:
        store.read_vault("home")
    assert caught.value.message.splitlines() == [
        f"{path}: source.path: must be an absolute path",
        f"{path}: target seed.x: there is no such setting",
    ]


@pytest.mark.parametrize("content", [b"\xff", b"x = ", b"x = 1"])
def test_settings_that_are_no_good_name_their_file(store: Store, content: bytes) -> None:
    assert store.read_settings().tools.rsync == "/usr/bin/rsync"
    (store.etc / "offsited.toml").write_bytes(content)
    with pytest.raises(ConfigInvalid, match=f"^{store.etc}/offsited.toml: "):
        store.read_settings()


def test_a_file_that_cannot_be_read_is_invalid(store: Store) -> None:
    store.vault_file("home").mkdir()
    with pytest.raises(ConfigInvalid, match="cannot be read"):
        store.read_vault("home")


# --- job numbers -----------------------------------------------------------------------------------------------------


def test_numbers_go_up_over_all_vaults(store: Store) -> None:
    assert [store.next_job() for _ in range(3)] == [1, 2, 3]
    assert Store(store.etc, store.var).next_job() == 4


@pytest.mark.parametrize("content", [None, b"", b"x", b"\xff", b"1\n2"])
def test_a_lost_counter_gives_no_number_twice(store: Store, content: bytes | None) -> None:
    """Not even one of a vault whose file is gone."""
    for vault, job in (("home", 7), ("away", 12)):
        store.vault_files(vault).create()
        store.vault_files(vault).write_record(record(job, vault))
    store.vault_file("home").write_text(VAULT)
    if content is not None:
        (store.var / "serial").write_bytes(content)
    assert store.next_job() == 13
    assert store.next_job() == 14


@given(st.binary(max_size=30))
def test_no_counter_crashes(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    store = Store(tmp_path_factory.mktemp("etc"), tmp_path_factory.mktemp("var"))
    (store.var / "serial").write_bytes(content)
    assert store.next_job() >= 1
