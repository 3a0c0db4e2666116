# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables and pictures of what `tests/bench/run` has measured: `python3 -m bench.report [--picture FILE.png] RESULTS.json...`"""

import argparse
import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from .figures import LARGE, MANY

OURS: Final = "offsited"
Cells = dict[tuple[str, str], list[dict[str, Any]]]
"""What was measured of a tool and an operation, once for each round."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--picture", type=Path, help="a bar for each tool and operation, of the first file")
    parser.add_argument("--growth", type=Path, help="time over number of files, of all files")
    arguments = parser.parse_args()
    read = [_read(file) for file in arguments.results]
    for facts, cells in read:
        print("\n".join(_table(facts, cells)), end="\n\n")
    if arguments.picture:
        _draw_bars(*read[0], arguments.picture)
    if arguments.growth:
        _draw_growth(read, arguments.growth)


def _read(file: Path) -> tuple[list[dict[str, Any]], Cells]:
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    cells: Cells = defaultdict(list)
    for line in lines:
        if line["kind"] == "figures":
            cells[line["peer"], line["operation"]].append(line)
    return [line for line in lines if line["kind"] != "figures"], cells


def _fact(facts: Iterable[dict[str, Any]], kind: str) -> dict[str, Any]:
    return next((fact for fact in facts if fact["kind"] == kind), {})


def _peers(cells: Cells) -> list[str]:
    return list(dict.fromkeys(peer for peer, _ in cells))


def _operations(cells: Cells) -> list[str]:
    known = dict.fromkeys((*MANY, *LARGE))
    return [operation for operation in known if any(found == operation for _, found in cells)]


def _median(figures: list[dict[str, Any]], name: str) -> float:
    return float(statistics.median(one[name] for one in figures))


def _table(facts: list[dict[str, Any]], cells: Cells) -> Iterator[str]:
    """Markdown: seconds of each operation with the ratio to ours, then what else was counted."""
    machine, corpus = _fact(facts, "machine"), _fact(facts, "corpus")
    rounds = max(len(figures) for figures in cells.values())
    what = f"{corpus['files']:,} files" if corpus["files"] else "8 large files"
    where = "over ssh" if corpus.get("ssh") else "to a disk"
    yield f"{what}, {corpus['bytes'] / 1e9:.1f} GB, {where}; {machine['date']}, {machine['cores']} cores, {machine['processor']}, "
    yield f"Linux {machine['kernel']}; median of {rounds}"
    yield ""
    operations = _operations(cells)
    yield "| seconds (times ours) | " + " | ".join(operations) + " |"
    yield "|---" * (len(operations) + 1) + "|"
    for peer in _peers(cells):
        yield f"| {peer} | " + " | ".join(_seconds(cells, peer, operation) for operation in operations) + " |"
    for name, unit, scale in (("cpu", "CPU seconds", 1.0), ("memory", "MiB of memory", 1 << 20), ("wire", "kB on the wire", 1000.0)):
        if name == "wire" and not corpus.get("ssh"):
            continue
        yield ""
        yield f"| {unit} | " + " | ".join(operations) + " |"
        yield "|---" * (len(operations) + 1) + "|"
        for peer in _peers(cells):
            yield f"| {peer} | " + " | ".join(_number(cells[peer, operation], name, scale) for operation in operations) + " |"
    if "changed_bytes" in corpus:
        yield ""
        yield f"Changed on the last day: {corpus['changed_bytes'] / 1000:,.1f} kB once encrypted, {corpus['changed_entries']:,} entries."
    if found := _fact(facts, "idle"):
        yield ""
        yield f"offsited at rest: `offsitectl status` {found['status']:.2f} s, daemon {found['memory'] / (1 << 20):.0f} MiB, "
        yield f"woken {found['woken']:.0f} times a minute."
    yield ""
    yield "Versions: " + "; ".join(f"{fact['peer']}: {fact['version']}" for fact in facts if fact["kind"] == "version")
    for peer in _peers(cells):
        if trouble := {
            one["trouble"].splitlines()[0] for key, found in cells.items() if key[0] == peer for one in found if "trouble" in one
        }:
            yield f"\n{peer} did not do all of it: {min(trouble)[:200]}"


def _seconds(cells: Cells, peer: str, operation: str) -> str:
    figures, ours = cells.get((peer, operation)), cells.get((OURS, operation))
    if not figures:
        return ""
    wall = _median(figures, "wall")
    mark = "*" if any("trouble" in one for one in figures) else ""
    if peer == OURS or not ours:
        return f"{wall:.2f}{mark}"
    return f"{wall:.2f}{mark} ({wall / _median(ours, 'wall'):.1f})"


def _number(figures: list[dict[str, Any]], name: str, scale: float) -> str:
    return f"{_median(figures, name) / scale:,.1f}" if figures else ""


def _draw_bars(facts: list[dict[str, Any]], cells: Cells, file: Path) -> None:
    import matplotlib.pyplot as plt  # noqa: PLC0415 - needed for pictures alone

    peers, operations = _peers(cells), _operations(cells)
    figure, axes = plt.subplots(1, len(operations), figsize=(3 * len(operations), 0.4 * len(peers) + 1.2), sharey=True)
    for axis, operation in zip(axes, operations, strict=True):
        values = [_median(cells[peer, operation], "wall") if cells.get((peer, operation)) else 0 for peer in peers]
        axis.barh(peers, values, color=["#1b6ca8" if peer == OURS else "#b0b8c0" for peer in peers])
        axis.set_title(operation)
        axis.set_xlabel("seconds")
        axis.invert_yaxis()
    corpus = _fact(facts, "corpus")
    figure.suptitle(f"{corpus['files']:,} files" if corpus["files"] else "8 large files")
    figure.tight_layout()
    figure.savefig(file, dpi=120)


def _draw_growth(read: list[tuple[list[dict[str, Any]], Cells]], file: Path) -> None:
    import matplotlib.pyplot as plt  # noqa: PLC0415 - needed for pictures alone

    figure, axis = plt.subplots(figsize=(7, 4))
    read = sorted(read, key=lambda one: int(_fact(one[0], "corpus")["files"]))
    for number, peer in enumerate(_peers(read[0][1])):
        for operation, style in (("no change", "-"), ("1 %", "--")):
            points = [
                (_fact(facts, "corpus")["files"], _median(cells[peer, operation], "wall"))
                for facts, cells in read
                if (peer, operation) in cells
            ]
            if len(points) > 1:
                axis.plot(*zip(*points, strict=True), style, marker="o", color=f"C{number}", label=f"{peer}, {operation}")
    axis.set(xscale="log", yscale="log", xlabel="files", ylabel="seconds")
    for one, shown in ((axis.xaxis, "{x:,.0f}"), (axis.yaxis, "{x:g}")):
        one.set_major_formatter(shown)
    axis.legend(fontsize="small", loc="upper left")
    figure.tight_layout()
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    main()
