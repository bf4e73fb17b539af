"""Results as one HTML page that needs nothing else, as Markdown, and as the README's tables."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from modnas_fast.atomic import write_atomically
from modnas_fast.bench.figures import costs_of, quality_chart, rival_groups, roofline_chart, speed_chart
from modnas_fast.bench.paper import MACHINE, SETTINGS, TIME
from modnas_fast.bench.rows import Row, place_of, read_rows
from modnas_fast.bench.tables import Table, counted, own_tables, paper_tables
from modnas_fast.bench.verdicts import LEGEND
from modnas_fast.errors import ModnasError
from modnas_fast.search.report_style import Page

GENERATOR = '<meta name="generator" content="modnas-fast bench report">'
_MARKED = re.compile(r"(<!-- bench: (?P<name>[^\n]+) -->\n)(?P<table>.*?)(<!-- end of bench -->)", re.DOTALL)
_PANELS = """\
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 480px), 1fr)); gap: 30px 28px; }
.panels { margin: 24px 0 40px; }
.panels figure { margin: 0; min-width: 0; }
.panels svg { min-width: 0; }
.panels h4 { margin: 0; font-size: 14px; line-height: 1.3; overflow-wrap: anywhere; }
.panels figcaption:empty { display: none; }
"""
_NEEDED = ("op", "machine", "threads", "versions", "commit")  # of a row; `circumstances` gives all but op


@dataclass(frozen=True)
class Section:
    """What a file has of one place (`place_of`): a chapter of the report."""

    file: str
    place: str
    rows: Sequence[Row]

    @property
    def is_paper(self) -> bool:
        return any(row["op"] == SETTINGS for row in self.rows)

    @property
    def title(self) -> str:
        usual = self.file.removeprefix("paper-") == self.rows[0]["machine"]
        text = self.place if usual else f"{self.place} ({self.file})"
        return f"The paper’s tables, {text}" if self.is_paper else text

    @property
    def conditions(self) -> str:
        last = self.rows[-1]
        versions = ", ".join(f"{package} {version}" for package, version in last["versions"].items())
        device, threads = last.get("device", "cpu"), counted(last["threads"], "thread")
        text = f"{device}, {threads}; {versions}; last at commit {last['commit']}"
        if self.is_paper:
            times = [row for row in self.rows if row["op"] == TIME and "failed" not in row]
            images = min((len(row["samples_ms"]) for row in times), default=0)
            crop = f"the middle {last['crop']}×{last['crop']} of each" if last.get("crop") else "whole"
            text += f"; Urban100: {counted(images, 'image')}, {crop}"
        return text + "."

    @property
    def tables(self) -> list[Table]:
        return paper_tables(self.rows) if self.is_paper else own_tables(self.rows)


def load_results(paths: Sequence[str | os.PathLike[str]]) -> list[Section]:
    """What files, and the .json files in folders, have, place by place.

    Raises:
        ModnasError: no file at all, or one that has no rows of ours.
    """
    files = [file for path in map(Path, paths) for file in (sorted(path.glob("*.json")) if path.is_dir() else [path])]
    if not files:
        raise ModnasError(f"{', '.join(map(str, paths))}: no results file there")
    return [section for file in files for section in sections(file, read_rows(file))]


def sections(file: str | os.PathLike[str], rows: Sequence[Row]) -> list[Section]:
    """A file's rows, place by place.

    Raises:
        ModnasError: there are none, or one does not say what every row of ours says.
    """
    if not rows:
        raise ModnasError(f"{file}: has no rows; modnas-fast bench measures some")
    for number, row in enumerate(rows, 1):
        missing = next((key for key in _NEEDED if key not in row), None)
        if missing:
            raise ModnasError(f"{file}: row {number} has no {missing!r}; results are what modnas-fast bench writes")
    places: dict[str, list[Row]] = {}
    for row in rows:
        places.setdefault(place_of(row), []).append(row)
    return [Section(Path(file).stem, place, found) for place, found in places.items()]


def write_report(results: Sequence[Section], path: str | os.PathLike[str]) -> None:
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


def render_markdown(results: Sequence[Section]) -> str:
    """All tables, with their commands."""
    parts = ["# Benchmarks\n"]
    for section in results:
        parts.append(f"## {section.title}\n\n{section.conditions}\n")
        for table in section.tables:
            note = f"{table.note}\n\n" if table.note else ""
            parts.append(f"### {table.title}\n\n{note}`{table.command}`\n\n{table.markdown()}\n")
        if section.is_paper:
            parts.append(LEGEND + "\n")
    return "\n".join(parts)


def render_html(results: Sequence[Section]) -> str:
    """The page: plots first, then tables, a file of results after the other, those of the paper's tables first."""
    page = Page()
    page.add('<header>\n<p class="kind">Benchmarks</p>\n<h1>modnas_fast, measured</h1>\n</header>')
    for section in sorted(results, key=lambda section: not section.is_paper):
        heading = f"<h2>{escape(section.title)}</h2>\n<p>{escape(section.conditions)}</p>"
        page.add(f'<header class="run">\n{heading}\n</header>')
        _add_figures(page, section)
        for table in section.tables:
            page.add(table.html())
        if section.is_paper:
            page.add(f'<p class="box">{escape(LEGEND)}</p>')
    return page.document("modnas_fast, measured", GENERATOR).replace("</style>", f"{_PANELS}</style>", 1)


def readme_tables(results: Sequence[Section]) -> dict[str, str]:
    """What README may show between its markers: "NAME @ PLACE" → Markdown; of several files the first that has it."""
    tables: dict[str, str] = {}
    for section in results:
        for table in section.tables:
            tables.setdefault(f"{table.name} @ {section.place}", table.markdown() + "\n")
    return tables


def renew_readme(path: str | os.PathLike[str], results: Sequence[Section]) -> None:
    """Replace what stands between `<!-- bench: NAME @ PLACE -->` and `<!-- end of bench -->` by the results' tables.

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


def _add_figures(page: Page, section: Section) -> None:
    panels = list(_paper_panels(section.rows) if section.is_paper else _speed_panels(section.rows))
    if not panels:
        return
    if not section.is_paper:
        page.add(f"<h3>Speed against peers</h3>\n<p>{escape(_SPEED)}</p>")
    page.add('<div class="panels">')
    for title, svg, caption in panels:
        page.figure(title, svg, caption, 3 if section.is_paper else 4)
    page.add("</div>")


_SPEED = (
    "Times as fast as the slowest of the group, by the medians of every backend’s last run; lines go from the 20th to "
    "the 80th percentile; blue is ours."
)


def _speed_panels(rows: Sequence[Row]) -> Iterator[tuple[str, str, str]]:
    """(title, SVG, caption) of what our own benchmarks' rows can show."""
    for title, group in rival_groups(rows).items():
        yield title, speed_chart(group), ""


def _paper_panels(rows: Sequence[Row]) -> Iterator[tuple[str, str, str]]:
    """(title, SVG, caption) of what the paper's tables can show."""
    captions = {
        "time": "On Urban100 in gray, σ = 25, as published: by the paper, for FFDNet and DRUNet in Restormer’s table, "
        "for SCUNet by its authors; for NAFNet no figure for gray images is published. Time is measured here, float32, "
        "by PyTorch where the engine is not named. T = 1, 3, 6 are MoD-NAS; HiNAS’s time is a stand-in’s.",
        "parameters": "The same PSNR. HiNAS’s count is a stand-in’s.",
        "MACs": "The same PSNR. HiNAS’s count is a stand-in’s; TNRD’s has no exponentials, which are its work.",
    }
    for name, (axis, costs) in costs_of(rows).items():
        yield f"PSNR against {name}", quality_chart(axis, costs), captions[name]
    if any(row["op"] == MACHINE for row in rows) and any(row["op"] == TIME and row["samples_ms"] for row in rows):
        yield (
            "Roofline",
            roofline_chart(rows),
            "The roof is what copies and float32 matrix products reach here. Points are effective: two FLOP for every "
            "MAC of direct convolution, over the time. Winograd’s convolutions need several times fewer "
            "multiplications, and so pass the roof. Bytes count each convolution’s input, weights and output once, as "
            "if none stayed in a cache. TNRD, whose work is exponentials, is left out.",
        )
