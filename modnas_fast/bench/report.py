"""Results as one HTML page that needs nothing else, as Markdown, and as the README's tables."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from modnas_fast.atomic import write_atomically
from modnas_fast.bench.figures import quality_chart, rival_groups, roofline_chart, speed_chart
from modnas_fast.bench.paper import MACHINE, SETTINGS, TIME
from modnas_fast.bench.rows import Row, read_rows
from modnas_fast.bench.tables import Table, own_tables, paper_tables
from modnas_fast.bench.verdicts import LEGEND
from modnas_fast.errors import ModnasError
from modnas_fast.search.report_style import Page

GENERATOR = '<meta name="generator" content="modnas-fast bench report">'
_MARKED = re.compile(r"(<!-- bench: (?P<name>[\w-]+) -->\n)(?P<table>.*?)(<!-- end of bench -->)", re.DOTALL)

Results = dict[str, list[Row]]  # a file's name → its rows


def load_results(paths: Sequence[str | os.PathLike[str]]) -> Results:
    """The rows of files, and of the .json files in folders.

    Raises:
        ModnasError: no file at all, or one that is no results file.
    """
    files = [file for path in map(Path, paths) for file in (sorted(path.glob("*.json")) if path.is_dir() else [path])]
    if not files:
        raise ModnasError(f"{', '.join(map(str, paths))}: no results file there")
    return {file.stem: read_rows(file) for file in files}


def write_report(results: Results, path: str | os.PathLike[str]) -> None:
    """Write the page, or Markdown where `path` ends so; atomic. The same results give the same bytes.

    Raises:
        ModnasError: `path` is another kind of file or not ours to replace, or matplotlib is missing.
    """
    target = Path(path)
    if target.suffix == ".md":
        content = render_markdown(results)
    elif target.suffix == ".html":
        content = render_html(results)
        if target.exists() and GENERATOR not in target.read_text(encoding="utf-8", errors="replace")[:1000]:
            raise ModnasError(f"{target}: exists and is no report of ours; give another name with -o")
    else:
        raise ModnasError(f"{target}: a report ends in .html or .md")
    try:
        write_atomically(target, content)
    except OSError as error:
        raise ModnasError(f"{target}: cannot be written: {error.strerror}") from None


def render_markdown(results: Results) -> str:
    """All tables, with their commands."""
    parts = ["# Benchmarks\n"]
    for name, rows in results.items():
        parts.append(f"## {_title(name, rows)}\n\n{_conditions(rows)}\n")
        parts += [f"### {table.title}\n\n`{table.command}`\n\n{table.markdown()}\n" for table in _tables(rows)]
        if _is_paper(rows):
            parts.append(LEGEND + "\n")
    return "\n".join(parts)


def render_html(results: Results) -> str:
    """The page: plots first, then tables, a file of results after the other, those of the paper's tables first."""
    page = Page()
    page.add('<header>\n<p class="kind">Benchmarks</p>\n<h1>modnas_fast, measured</h1>\n</header>')
    for name, rows in sorted(results.items(), key=lambda item: not _is_paper(item[1])):
        heading = f"<h2>{escape(_title(name, rows))}</h2>\n<p>{escape(_conditions(rows))}</p>"
        page.add(f'<header class="run">\n{heading}\n</header>')
        _add_figures(page, rows)
        for table in _tables(rows):
            page.add(table.html())
        if _is_paper(rows):
            page.add(f'<p class="box">{escape(LEGEND)}</p>')
    return page.document("modnas_fast, measured", GENERATOR)


def readme_tables(results: Results) -> dict[str, str]:
    """What README may show between its markers: name → Markdown; of several machines the first that has it."""
    tables: dict[str, str] = {}
    for rows in results.values():
        for table in _tables(rows):
            tables.setdefault(table.name.replace(" ", "-"), table.markdown() + "\n")
    return tables


def renew_readme(path: str | os.PathLike[str], results: Results) -> None:
    """Replace what stands between `<!-- bench: NAME -->` and `<!-- end of bench -->` by the results' tables.

    Raises:
        ModnasError: the file cannot be read, or names a table that the results do not have.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ModnasError(f"{path}: cannot be read: {error.strerror}") from None
    write_atomically(path, renewed(text, readme_tables(results)))


def renewed(text: str, tables: dict[str, str]) -> str:
    """A README with these tables between its markers; `ModnasError` for a name that is not among them."""

    def replace(match: re.Match[str]) -> str:
        if match["name"] not in tables:
            raise ModnasError(f"no results for the table {match['name']!r}; there are {', '.join(tables)}")
        return match[1] + tables[match["name"]] + match[4]

    return _MARKED.sub(replace, text)


def _tables(rows: Sequence[Row]) -> list[Table]:
    return paper_tables(rows) if _is_paper(rows) else own_tables(rows)


def _add_figures(page: Page, rows: Sequence[Row]) -> None:
    for title, svg, caption in _figures(rows):
        page.figure(title, svg, caption, 3)


def _figures(rows: Sequence[Row]) -> Iterator[tuple[str, str, str]]:
    """(title, SVG, caption) of what these rows can show."""
    if not _is_paper(rows):
        groups = rival_groups(rows)
        if groups:
            caption = (
                "Times as fast as the slowest of the group, by medians, interleaved in one process; lines go from "
                "the 20th to the 80th percentile."
            )
            yield "Speed against peers", speed_chart(groups), caption
        return
    yield (
        "PSNR against time, parameters and MACs",
        quality_chart(rows),
        "On Urban100 in gray, σ = 25, as published: by the paper, and for FFDNet and DRUNet in Restormer’s table. Time "
        "is measured here, float32, PyTorch unless the engine is named. T = 1, 3, 6 are MoD-NAS; HiNAS’s time and "
        "counts are a stand-in’s.",
    )
    if any(row["op"] == MACHINE for row in rows) and any(row["op"] == TIME and row["samples_ms"] for row in rows):
        yield (
            "Roofline",
            roofline_chart(rows),
            "FLOP are two a MAC. Bytes count each convolution’s input, weights and output once, as if none stayed in "
            "a cache: what fuses layers, or keeps them in caches, may pass the slope, and Winograd the roof. TNRD, "
            "whose work is exponentials, is left out.",
        )


def _is_paper(rows: Sequence[Row]) -> bool:
    return any(row.get("op") == SETTINGS for row in rows)


def _title(name: str, rows: Sequence[Row]) -> str:
    return f"The paper’s tables, {name.removeprefix('paper-')}" if _is_paper(rows) else name


def _conditions(rows: Sequence[Row]) -> str:
    last = rows[-1]
    versions = ", ".join(f"{package} {version}" for package, version in last["versions"].items())
    text = f"{last.get('device', 'cpu')}, {last['threads']} threads; {versions}; last at commit {last['commit']}"
    if _is_paper(rows):
        images = min((len(row["samples_ms"]) for row in rows if row["op"] == TIME and "failed" not in row), default=0)
        crop = f"the middle {last['crop']}×{last['crop']} of each" if last["crop"] else "whole"
        text += f"; Urban100: {images} images, {crop}"
    return text + "."
