# SPDX-License-Identifier: GPL-3.0-or-later
"""The documents against the program: nothing that exists is missing from its page, and no page speaks of what does not exist."""

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path

import click
import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from offsited import __version__, names
from offsited.core import config, metrics
from offsited.core.commit import Commit, OwnerMarker
from offsited.core.event import Event
from offsited.core.outcome import Outcome, Reason, exit_status
from offsited.ctl import objects
from offsited.ctl.cli import cli
from offsited.ctl.output import INTERRUPTED
from offsited.ctl.vaultfile import parse_source, parse_target
from offsited.errors import Exit
from offsited.spool import Way

ROOT = Path(__file__).resolve().parents[2]
MAN = ROOT / "packaging" / "man"
PAGES = sorted(MAN.glob("*.scd"))
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *PAGES]

# A shared setting stands once, under [[target]]; what a table alone has, under its own heading.
_SHARED = set(config._Target.model_fields) | {"kind"}
TABLES: list[tuple[str, str, type[BaseModel], set[str]]] = [
    ("offsited-vault.5.scd", "SETTINGS OF THE VAULT", config.Vault, {"name", "source", "limits", "target"}),
    ("offsited-vault.5.scd", "[source]", config.Source, set()),
    ("offsited-vault.5.scd", "[limits]", config.Limits, set()),
    ("offsited-vault.5.scd", "[[target]]", config.DiskTarget, set(config.DiskTarget.model_fields) - _SHARED),
    ("offsited-vault.5.scd", "Disk targets", config.DiskTarget, _SHARED),
    ("offsited-vault.5.scd", "Ssh targets", config.SshTarget, _SHARED),
    ("offsited.toml.5.scd", "[tools]", config.Tools, set()),
    ("offsited.toml.5.scd", "[notify]", config.Notify, set()),
]
"""Page, heading, model, and those of its fields that stand elsewhere."""


def page(name: str) -> str:
    return (MAN / name).read_text()


def sections(text: str) -> dict[str, str]:
    """Each heading of a page, of either level, with the text below it up to the next one."""
    parts = re.split(r"^##? (.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def _leaves() -> dict[str, click.Command]:
    """Every command that does something, by the words that it is typed by."""
    groups = {name: command for name, command in cli.commands.items() if isinstance(command, click.Group)}
    below = {f"{name} {word}": command for name, group in groups.items() for word, command in group.commands.items()}
    return {name: command for name, command in cli.commands.items() if name not in groups} | below


COMMANDS = _leaves()


def command_sections() -> dict[str, str]:
    """Each command of offsitectl(1), with its heading and text."""
    commands = page("offsitectl.1.scd").partition("\n# COMMANDS\n")[2].partition("\n# ")[0]
    return {_command_of(heading): f"{heading}\n{text}" for heading, text in sections(commands).items()}


def _command_of(heading: str) -> str:
    first, second = [*heading.split(), ""][:2]
    return f"{first} {second}" if isinstance(cli.commands.get(first), click.Group) else first


def options_of(command: click.Command) -> set[str]:
    """The options of a command that are its own."""
    options = [param for param in command.params if isinstance(param, click.Option)]
    return {name for option in options for name in option.opts} - {"--json"}


def entries(text: str) -> dict[str, str]:
    """Each `*setting* = ...` of a section, with its line and what is indented below it."""
    found = re.findall(r"^\*([a-z_]+)\* = (.+\n(?:(?:\t.*)?\n)*)", text + "\n", flags=re.MULTILINE)
    return dict(found)


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z][a-z0-9_-]*[a-z0-9]", text))


def fenced(text: str) -> Iterator[str]:
    """Blocks of a manual page or of Markdown that stand as they are."""
    yield from re.findall(r"^```\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    yield from ("\n".join(line[4:] for line in block.splitlines()) for block in re.findall(r"(?:^ {4}.*\n)+", text, flags=re.MULTILINE))


def command_lines(document: Path) -> list[list[str]]:
    """Every call of offsitectl in a document's blocks, as arguments."""
    lines = [line.strip() for block in fenced(document.read_text()) for line in block.replace("\\\n", " ").splitlines()]
    calls = [shlex.split(line.removeprefix("sudo "), comments=True) for line in lines if re.match(r"(sudo )?offsitectl ", line)]
    return [call[1:] for call in calls]


ALL_COMMAND_LINES = [
    pytest.param(call, id=f"{document.name}: {' '.join(call)}") for document in DOCUMENTS for call in command_lines(document)
]


# --- offsitectl(1) -------------------------------------------------------------------------------------------------


def test_every_command_has_its_section_and_no_other_has_one() -> None:
    assert set(command_sections()) == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_a_command_is_in_its_section_and_no_other_is(name: str) -> None:
    heading, _, text = command_sections()[name].partition("\n")
    assert set(re.findall(r"^\*(--[a-z-]+)\*", text, flags=re.MULTILINE)) == options_of(COMMANDS[name])
    required = {param.opts[0] for param in COMMANDS[name].params if isinstance(param, click.Option) and param.required}
    assert set(re.findall(r"--[a-z-]+", heading)) == required


@pytest.mark.parametrize("name", COMMANDS)
def test_every_argument_of_a_command_is_in_its_heading(name: str) -> None:
    heading = command_sections()[name].partition("\n")[0]
    for param in COMMANDS[name].params:
        if isinstance(param, click.Argument):
            assert str(param.metavar) in heading


def test_options_of_the_program_and_json_are_told() -> None:
    text = sections(page("offsitectl.1.scd"))["OPTIONS"]
    assert {"-h", "--help", "--version", "--json"} <= set(re.findall(r"\*(-[a-z-]+)\*", text))


def test_json_is_of_every_command_as_the_page_says() -> None:
    assert [name for name, command in COMMANDS.items() if "--json" not in {opt for param in command.params for opt in param.opts}] == []


def test_every_exit_status_is_listed_and_no_other() -> None:
    listed = re.findall(r"^\*(\d+)\*$", sections(page("offsitectl.1.scd"))["EXIT STATUS"], flags=re.MULTILINE)
    assert sorted(map(int, listed)) == sorted([*map(int, Exit), INTERRUPTED])


def test_every_reason_is_listed_below_the_exit_status_that_it_leads_to() -> None:
    text = sections(page("offsitectl.1.scd"))["OUTCOMES AND REASONS"]
    groups = re.findall(r"^\*(\d)\*\n((?:\t.+\n)+)", text, flags=re.MULTILINE)
    listed = {word: int(status) for status, block in groups for word in words(block)}
    outcomes = {reason: Outcome.CANCELED if reason is Reason.CANCELED else Outcome.FAILED for reason in Reason if reason}
    assert listed == {reason.value: int(exit_status(outcome, reason)) for reason, outcome in outcomes.items()}
    assert {outcome.value for outcome in Outcome} <= words(text)


@pytest.mark.parametrize("shown", [objects.Job, objects.JobEnd, objects.Target, objects.Vault])
def test_every_key_of_json_is_told(shown: type[objects.Job | objects.JobEnd | objects.Target | objects.Vault]) -> None:
    missing = {field.name for field in fields(shown)} - words(sections(page("offsitectl.1.scd"))["JSON"])
    assert missing == set()


# --- files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "heading", "model", "elsewhere"), TABLES, ids=[heading for _, heading, _, _ in TABLES])
def test_every_setting_has_its_entry_with_its_default(name: str, heading: str, model: type[BaseModel], elsewhere: set[str]) -> None:
    told = entries(sections(page(name))[heading])
    assert set(told) == set(model.model_fields) - elsewhere
    for setting, entry in told.items():
        assert entry.splitlines()[0].endswith(f"({_default(model, setting)})"), setting


def _default(model: type[BaseModel], setting: str) -> str:
    field = model.model_fields[setting]
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    assert default is not PydanticUndefined
    return "optional" if default in {None, ""} else f"default: {json.dumps(default)}"


def test_no_model_of_a_file_is_without_a_table() -> None:
    reached = {config.Vault, config.Settings, *_models(config.Vault), *_models(config.Settings)}
    assert reached - {config.Settings} == {model for _, _, model, _ in TABLES}


def _models(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for field in model.model_fields.values():
        for name, found in vars(config).items():
            if isinstance(found, type) and issubclass(found, BaseModel) and re.search(rf"\b{name}\b", repr(field.annotation)):
                yield found


def test_every_refused_rsync_option_is_listed_and_no_other() -> None:
    listed = re.findall(r"--[A-Za-z0-9-]+", sections(page("offsited-vault.5.scd"))["REFUSED RSYNC OPTIONS"])
    assert sorted(listed) == sorted(config.REFUSED_RSYNC_OPTIONS)


def test_examples_of_files_are_valid() -> None:
    vaults = [block for block in fenced(page("offsited-vault.5.scd")) if "[source]" in block]
    settings = [block for block in fenced(page("offsited.toml.5.scd")) if "[tools]" in block]
    assert len(vaults) == len(settings) == 1
    assert config.parse_vault("home", vaults[0]).default_target.name == "vps"
    config.parse_settings(settings[0])


@pytest.mark.parametrize("model", [OwnerMarker, Commit])
def test_every_key_of_what_lies_on_a_target_is_told(model: type[BaseModel]) -> None:
    assert set(model.model_fields) <= set(re.findall(r"\*([a-z_]+)\*", page("offsited-target.7.scd")))


def test_every_metric_and_every_event_is_told_and_no_other() -> None:
    text = page("offsited-watch.service.8.scd")
    assert set(re.findall(r"offsited_[a-z_]+", text)) == set(metrics.NAMES)
    assert set(Event) <= set(re.findall(r"\*([a-z]+)\*", sections(text)["WHAT IS TOLD"]))
    assert set(Way) == set(re.findall(r"^\*([a-z]+)\*$", sections(text)["HOW IT IS TOLD"], flags=re.MULTILINE))


def test_what_lies_on_a_target_is_named_as_the_program_names_it() -> None:
    text = page("offsited-target.7.scd")
    for name in (names.OWNER_FILE, names.CURRENT_DIR, names.PARTIAL_DIR, names.TARGET_KEY_FILE, names.BACKUP_DIR, names.OFFSITED_DIR):
        assert re.search(rf"(^|/){re.escape(name)}(/|\s)", text, flags=re.MULTILINE), name


# --- other pages ---------------------------------------------------------------------------------------------------


def test_the_page_of_the_bus_points_to_the_interface() -> None:
    text = page("offsited-dbus.7.scd")
    objects_named = [
        names.vault_path("NAME"),
        names.target_path("NAME", "T"),
        names.ROOT_PATH,
        names.JOB,
        names.VAULT,
        names.TARGET,
        names.MANAGER,
    ]
    assert _missing([str(names.INTERFACE_XML), names.BUS_NAME, *objects_named], text) == []


def test_units_and_journal_fields_are_named_as_the_program_names_them() -> None:
    told = page("offsited.8.scd") + page("offsited-sync@.service.8.scd")
    units = [
        names.job_unit("NAME"),
        names.prove_unit("NAME"),
        names.ask_unit("NAME"),
        names.prepare_unit("NAME"),
        names.unlock_service("NAME"),
        names.sync_service("NAME"),
        names.sync_timer("NAME"),
        names.sync_path_unit("NAME"),
        names.WATCH_SERVICE,
        names.UNANSWERED_SERVICE,
        names.notify_unit("NAME", 1).replace("-1.", "-ID."),
    ]
    fields_named = [names.FIELD_VAULT, names.FIELD_TARGET, names.FIELD_JOB, names.FIELD_OUTCOME, names.FIELD_REASON]
    assert _missing([names.SERVICE, names.SLICE, names.BOOT_HINT_SERVICE, *units, *fields_named], told) == []


def _missing(wanted: Iterable[str], text: str) -> list[str]:
    return [word for word in wanted if word not in text]


@pytest.mark.parametrize("call", ALL_COMMAND_LINES)
def test_every_command_line_in_a_document_can_be_typed(call: list[str]) -> None:
    if call == ["--version"]:
        return
    name = next(name for name in COMMANDS if call[: len(name.split())] == name.split())
    typed = COMMANDS[name].make_context(name, call[len(name.split()) :]).params
    if call[0] == "init":
        parse_source(typed["source"], typed["root"])
        for target in typed["targets"]:
            parse_target(target, typed["vault"])


def test_the_version_is_the_same_everywhere() -> None:
    assert f"offsited_{__version__}_all.deb" in (ROOT / "README.md").read_text()
    assert f"\n## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_command_lines_are_found() -> None:
    found = {call[0] for document in DOCUMENTS for call in command_lines(document)}
    assert {"init", "unlock", "sync", "restore", "status", "history", "check-config"} <= found


@pytest.mark.parametrize("document", DOCUMENTS, ids=[document.name for document in DOCUMENTS])
def test_references_lead_somewhere(document: Path) -> None:
    text = document.read_text()
    own = {path.name.removesuffix(".scd") for path in PAGES}
    cited = {f"{name}.{section}" for name, section in re.findall(r"\*(offsite[a-z@.-]+)\*\((\d)\)", text)}
    assert cited - own == set()
    linked = re.findall(r"\]\((?!https?://)([^)#]+)\)", text)
    assert [link for link in linked if not (document.parent / link).exists()] == []


@pytest.mark.parametrize("path", PAGES, ids=[path.name for path in PAGES])
def test_a_page_has_its_own_title(path: Path) -> None:
    stem, section = re.fullmatch(r"(.+)\.(\d)\.scd", path.name).groups()  # type: ignore[union-attr]
    name = stem.replace("@.service", "")  # scdoc allows no @ in a title
    assert path.read_text().splitlines()[0] == f"{name}({section})"
    assert stem in sections(path.read_text())["NAME"].split(" - ")[0]


@pytest.mark.skipif(shutil.which("scdoc") is None, reason="scdoc is not installed; building the package compiles every page")
@pytest.mark.parametrize("path", PAGES, ids=[path.name for path in PAGES])
def test_a_page_compiles(path: Path) -> None:
    ended = subprocess.run(["scdoc"], input=path.read_bytes(), capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, b"")
