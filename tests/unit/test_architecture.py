# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may import whom: `names, errors <- core <- engine <- edge <- daemon`, worker and ctl beside them; and that the core only computes."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import offsited

PACKAGE = Path(offsited.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))


def _within(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


BELOW: dict[str, set[str]] = {
    "names": set(),
    "errors": {"names"},
    "layers": set(),
    "core": {"names", "errors"},
    "store": {"names", "errors", "core"},
    "spool": {"names", "errors", "core", "store"},
    "notices": {"layers", "names", "errors", "core", "store", "spool"},
    "engine": {"names", "errors", "core", "store", "spool"},
    "edge": {"layers", "names", "errors", "core", "engine", "store"},
    "daemon": {"names", "errors", "core", "engine", "edge", "store"},
    "worker": {"layers", "names", "errors", "core", "store"},
    "ctl": {"names", "errors", "core", "store"},
}
"""What each part may import beside itself."""

BUS_USERS = ("edge/bus/", "ctl/client.py")
"""Where D-Bus is spoken."""

EFFECTS = {
    "asyncio", "concurrent", "ctypes", "dbus_next", "fcntl", "fileinput", "glob", "http", "io", "logging", "mmap", "multiprocessing",
    "pickle", "pyudev", "random", "secrets", "select", "selectors", "shelve", "shutil", "signal", "socket", "sqlite3", "ssl", "subprocess",
    "sys", "systemd", "tempfile", "threading", "urllib",
}  # fmt: skip
"""Modules that read, write, wait or roll dice: none of them in the core."""

PURE = {
    "os": {"fsdecode", "fsencode", "fspath", "path", "PathLike", "sep"},
    "os.path": {"normpath", "join", "split", "basename", "dirname", "commonpath"},
    "time": {"mktime", "strptime", "strftime", "struct_time"},
}
"""What the core may use of modules that can do more."""

IMPURE_METHODS = {
    "read_text", "read_bytes", "write_text", "write_bytes", "exists", "is_file", "is_dir", "is_symlink", "iterdir", "rglob", "unlink",
    "mkdir", "rmdir", "rename", "stat", "lstat", "chmod", "touch", "symlink_to", "resolve", "readlink", "now", "today", "utcnow",
    "uuid1", "uuid4",
}  # fmt: skip
IMPURE_CALLS = {"open", "print", "input", "exec", "eval", "__import__", "breakpoint"}


@dataclass(frozen=True)
class Import:
    """One import of one module."""

    file: str
    line: int
    module: str


def imports(path: Path) -> Iterator[Import]:
    """Every import of a file, wherever in it."""
    file = str(path.relative_to(PACKAGE))
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (Import(file, node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(path, node)
            yield from (Import(file, node.lineno, f"{base}.{alias.name}") for alias in node.names)


def _absolute(path: Path, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = ("offsited", *path.relative_to(PACKAGE).parent.parts)
    return ".".join((*package[: len(package) - node.level + 1], *filter(None, [node.module])))


def part(file: str) -> str:
    return file.partition("/")[0].removesuffix(".py")


@pytest.mark.parametrize("path", [path for path in FILES if path != PACKAGE / "__init__.py"], ids=_within)
def test_imports_go_one_way(path: Path) -> None:
    own = part(str(path.relative_to(PACKAGE)))
    assert own in BELOW, "a new part: say here what it may import"
    for found in imports(path):
        if found.module.startswith("offsited."):
            other = found.module.split(".")[1]
            assert other in BELOW[own] | {own, "__version__"}, f"{found.file}:{found.line} imports {found.module}"


def test_the_bus_layer_knows_nothing_of_vaults() -> None:
    for path in (PACKAGE / "edge/bus").glob("*.py"):
        for found in imports(path):
            inner = found.module.removeprefix("offsited.").split(".")
            assert not found.module.startswith("offsited.") or inner[0] in {"names", "errors"} or inner[:2] == ["edge", "bus"], found


@pytest.mark.parametrize(
    ("module", "places"), [("dbus_next", BUS_USERS), ("pyudev", ("edge/",)), ("click", ("ctl/",)), ("rich", ("ctl/",))]
)
def test_one_home_for_each_effect(module: str, places: tuple[str, ...]) -> None:
    users = {found.file for path in FILES for found in imports(path) if found.module.split(".")[0] == module}
    assert users, "nobody uses it: the table here is out of date"
    assert {file for file in users if not file.startswith(places)} == set()


@pytest.mark.parametrize("path", sorted((PACKAGE / "core").glob("*.py")), ids=lambda path: path.name)
def test_the_core_only_computes(path: Path) -> None:
    for found in imports(path):
        assert found.module.split(".")[0] not in EFFECTS, f"{found.file}:{found.line} imports {found.module}"
    assert not list(_effects(ast.parse(path.read_bytes())))


def _effects(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            owner = ast.unparse(node.value)
            if owner in PURE and node.attr not in PURE[owner]:
                yield f"line {node.lineno}: {owner}.{node.attr}"
        if isinstance(node, ast.Call):
            called = node.func
            function = called.id in IMPURE_CALLS if isinstance(called, ast.Name) else False
            method = called.attr in IMPURE_METHODS if isinstance(called, ast.Attribute) else False
            if function or method:
                yield f"line {node.lineno}: {ast.unparse(called)}"


def test_the_check_of_the_core_finds_effects() -> None:
    """A test that cannot fail is a defect."""
    for line in ("open('x')", "os.stat('x')", "time.time()", "Path('x').read_text()", "datetime.now()", "os.path.exists('x')"):
        assert list(_effects(ast.parse(line))), line
    assert not list(_effects(ast.parse("os.fsencode('x'); time.mktime(t); PurePosixPath('x').name")))


@pytest.mark.parametrize("path", FILES, ids=_within)
def test_every_file_says_its_license(path: Path) -> None:
    assert path.read_text().startswith("# SPDX-License-Identifier: GPL-3.0-or-later\n")


def test_a_job_does_not_wait_for_what_it_does_not_need() -> None:
    """A worker that imports the bus, udev or the command line would be slow to start and may do more than it should."""
    for path in (PACKAGE / "worker").glob("*.py"):
        assert not {found.module.split(".")[0] for found in imports(path)} & {"dbus_next", "pyudev", "click", "rich"}


@pytest.mark.parametrize("module", ["worker.survey", "ctl.status"])
def test_what_runs_often_is_small(module: str) -> None:
    """The survey runs each day, whether or not anything changed, and who asks for the state waits: pydantic alone takes 0.15 s to load."""
    program = f"import sys, offsited.{module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "pydantic" not in loaded
