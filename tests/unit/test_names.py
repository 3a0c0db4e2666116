# SPDX-License-Identifier: GPL-3.0-or-later
"""names.py against everything that repeats its names in other languages: XML, units, packaging. Beside that, the tree of errors."""

import configparser
import re
import tomllib
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offsited import errors, names
from offsited.core.unit import NOTIFIER, NOTIFYING, as_settings
from offsited.notices.__main__ import NOT_ALL

ROOT = Path(__file__).resolve().parents[2]
XML = ROOT / "dbus" / "org.offsited.Offsite1.xml"
INTERFACES = {names.MANAGER, names.VAULT, names.TARGET, names.JOB}
ACTIONS = {value for name, value in vars(names).items() if name.startswith("ACTION_")}


def _parsed(path: Path) -> ET.Element:
    return ET.parse(path).getroot()  # noqa: S314 - our own files


def unit(name: str) -> dict[str, list[tuple[str, str]]]:
    """The sections of a unit file; a setting may be given more than once."""
    found: dict[str, list[tuple[str, str]]] = {}
    section: list[tuple[str, str]] = []
    for line in (ROOT / "units" / name).read_text().splitlines():
        if line.startswith("["):
            section = found.setdefault(line.strip("[]"), [])
        elif "=" in line and not line.startswith(("#", ";")):
            key, _, value = line.partition("=")
            section.append((key, value))
    return found


@pytest.mark.parametrize("name", ["a", "home", "a1_b", "a" * 32])
def test_names_of_vaults_and_targets(name: str) -> None:
    assert names.NAME_PATTERN.fullmatch(name)


@pytest.mark.parametrize("name", ["", "A", "1a", "_a", "a-b", "a.b", "a/b", "a b", "a\n", "ä", "a" * 33, "a@b"])
def test_what_cannot_be_a_name(name: str) -> None:
    assert not names.NAME_PATTERN.fullmatch(name)


@given(st.from_regex(names.NAME_PATTERN, fullmatch=True), st.from_regex(names.NAME_PATTERN, fullmatch=True), st.integers(1, 2**32 - 1))
def test_names_need_no_escaping_anywhere(vault: str, target: str, job: int) -> None:
    """systemd.unit(5): at most 255 characters of these; object paths by the D-Bus specification."""
    for name in (names.job_unit(vault), names.reader_unit("restore", vault, job), names.prove_unit(vault), names.sync_service(vault)):
        assert re.fullmatch(r"[a-z0-9:_.@-]{1,248}\.service", name)
    for path in (names.vault_path(vault), names.target_path(vault, target), names.job_path(job)):
        assert re.fullmatch(r"(/[A-Za-z0-9_]+)+", path)
        assert path.startswith(names.ROOT_PATH + "/")


@given(st.from_regex(names.NAME_PATTERN, fullmatch=True), st.from_regex(names.NAME_PATTERN, fullmatch=True))
def test_one_lock_for_each_vault(one: str, other: str) -> None:
    assert (names.job_unit(one) == names.job_unit(other)) is (one == other)
    assert names.job_unit(one) != names.prove_unit(other)
    assert names.runtime_directory(names.job_unit(one)) == names.job_unit(one).removesuffix(".service")


def test_readers_have_units_of_their_own() -> None:
    assert names.reader_unit("restore", "home", 1) != names.reader_unit("restore", "home", 2)


# --- the bus ---------------------------------------------------------------------------------------------------------


def test_the_xml_has_our_interfaces_and_path() -> None:
    node = _parsed(XML)
    assert node.get("name") == names.ROOT_PATH
    assert {found.get("name") for found in node.iter("interface")} == INTERFACES
    assert names.INTERFACE_XML.name == XML.name


def test_the_xml_names_our_errors_and_actions() -> None:
    text = XML.read_text()
    listed = re.search(re.escape(names.ERROR_PREFIX) + r"\{([A-Za-z,]+)\}", text)
    assert listed
    ours = {found.bus_name for found in _errors() if found.bus_name.startswith(names.ERROR_PREFIX)}
    assert {names.ERROR_PREFIX + word for word in listed[1].split(",")} == ours
    said = set(re.findall(re.escape(names.BUS_NAME) + r"\.[a-z]+\b", text))
    assert said <= ACTIONS
    assert said


def test_the_bus_policy_has_our_name_and_interfaces() -> None:
    policy = _parsed(ROOT / "dbus" / "org.offsited.Offsite1.conf")
    allowed = [dict(found.attrib) for found in policy.iter("allow")]
    assert {rule["own"] for rule in allowed if "own" in rule} == {names.BUS_NAME}
    assert {rule["send_destination"] for rule in allowed if "send_destination" in rule} == {names.BUS_NAME}
    assert {rule["send_interface"] for rule in allowed if rule.get("send_interface", "").startswith(names.BUS_NAME)} == INTERFACES


def test_the_bus_starts_our_unit() -> None:
    activation = configparser.ConfigParser()
    activation.read(ROOT / "dbus" / "org.offsited.Offsite1.service")
    section = activation["D-BUS Service"]
    assert (section["Name"], section["SystemdService"]) == (names.BUS_NAME, names.SERVICE)


def test_polkit_has_our_actions() -> None:
    policy = _parsed(ROOT / "dbus" / "org.offsited.Offsite1.policy")
    assert {found.get("id") for found in policy.iter("action")} == ACTIONS


def _errors() -> list[type[errors.OffsitedError]]:
    """Those of the tree that have a name of their own; other modules add kinds of `Failed`."""
    every: list[type[errors.OffsitedError]] = [errors.OffsitedError, *errors._tree(errors.OffsitedError)]
    return [found for found in every if found.__module__ == errors.__name__]


@pytest.mark.parametrize("found", _errors(), ids=lambda found: found.__name__)
def test_each_error_is_read_back_from_its_name(found: type[errors.OffsitedError]) -> None:
    assert found.exit_status != 0
    if found not in (errors.OffsitedError, errors.JobFailed, errors.Different):
        assert errors.by_bus_name(found.bus_name) is found


def test_a_strangers_error_is_a_failure() -> None:
    assert errors.by_bus_name("org.freedesktop.DBus.Error.NoReply") is errors.Failed
    assert errors.by_bus_name("") is errors.Failed


def test_exit_statuses_are_those_of_the_table() -> None:
    assert {status.name: status.value for status in errors.Exit} == {
        "DONE": 0, "FAILED": 1, "USAGE": 2, "LOCKED": 3, "HELD": 4, "ABSENT": 5, "BUSY": 6, "CONFIG": 7, "DIFFERENT": 8, "DENIED": 9,
    }  # fmt: skip


# --- units -----------------------------------------------------------------------------------------------------------


def test_the_daemons_unit() -> None:
    service = dict(unit(names.SERVICE)["Service"])
    assert (service["Type"], service["BusName"]) == ("notify-reload", names.BUS_NAME)
    assert service["FileDescriptorStorePreserve"] == "yes"
    assert int(service["FileDescriptorStoreMax"]) >= 16
    assert dict(unit(names.SERVICE)["Unit"])["StartLimitIntervalSec"] == "0"
    assert "WantedBy" in dict(unit(names.SERVICE)["Install"]), "only an enabled unit keeps its descriptors"


def test_units_have_our_names() -> None:
    template = names.sync_service("@").replace("@@", "@")
    asking = names.unlock_service("@").replace("@@", "@")
    assert (ROOT / "units" / asking).exists()
    generator = (ROOT / "packaging" / "offsited-generator").read_text()
    assert f"/{asking}" in generator
    assert f"/{names.BOOT_HINT_SERVICE}" in generator
    assert (ROOT / "units" / names.BOOT_HINT_SERVICE).exists()
    assert (ROOT / "units" / names.SLICE).exists()
    assert (ROOT / "units" / template).exists()
    assert (ROOT / "units" / template.replace(".service", ".timer")).exists()
    assert (ROOT / "units" / template.replace(".service", ".path")).exists()


@pytest.mark.parametrize("path", sorted((ROOT / "units").glob("*.service")), ids=lambda path: path.name)
def test_what_units_say_of_the_journal_and_the_slice(path: Path) -> None:
    for key, value in unit(path.name)["Service"]:
        if key == "LogExtraFields":
            assert value.partition("=")[0] in names.JOURNAL_FIELDS
        if key == "Slice":
            assert value == names.SLICE
        if key.startswith("Exec"):
            program = value.lstrip("-+!:@").split()
            assert (
                Path(program[0]).name in _scripts()
                or (ROOT / "packaging" / Path(program[0]).name).exists()
                or tuple(program[: len(NOTIFIER)]) == NOTIFIER
            )


@pytest.mark.parametrize("watch", [names.WATCH_SERVICE, names.UNANSWERED_SERVICE])
def test_the_watch_runs_as_notices_of_jobs_do(watch: str) -> None:
    service = unit(watch)["Service"]
    wanted = [setting for setting in as_settings(NOTIFYING) if not setting.startswith("CollectMode=")]
    assert set(wanted) <= {f"{key}={value}" for key, value in service}
    assert [value for key, value in service if key == "SuccessExitStatus"] == [str(NOT_ALL)], "a program that broke is no success"
    assert (ROOT / "units" / watch.replace(".service", ".timer")).exists()


def test_a_boot_has_ten_minutes_to_be_answered() -> None:
    assert ("OnBootSec", "10min") in unit(names.UNANSWERED_TIMER)["Timer"]
    rules = (ROOT / "packaging" / "debian" / "rules").read_text()
    assert all(re.search(rf"dh_installsystemd .*{re.escape(timer)}", rules) for timer in (names.WATCH_TIMER, names.UNANSWERED_TIMER))


def _scripts() -> set[str]:
    return set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"])


def test_the_catalog_explains_every_message_and_no_other() -> None:
    entries = (ROOT / "packaging" / "offsited.catalog").read_text().split("\n-- ")[1:]
    assert sorted(entry[:32] for entry in entries) == sorted(value for name, value in vars(names).items() if name.startswith("MESSAGE_"))
    for entry in entries:
        assert re.match(r"[0-9a-f]{32}\nSubject: .+\nDefined-By: offsited\n(Documentation: man:.+\n)+\n\S", entry)
        assert set(re.findall(r"@([A-Z_]+)@", entry)) <= set(names.JOURNAL_FIELDS)
        assert max(map(len, entry.splitlines())) <= 100


def test_programs_have_our_names() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["name"] == "offsited"
    assert set(project["scripts"]) == {"offsited", "offsitectl"}
    for target in project["scripts"].values():
        module, _, function = target.partition(":")
        assert f"def {function}(" in (ROOT / (module.replace(".", "/") + ".py")).read_text()
