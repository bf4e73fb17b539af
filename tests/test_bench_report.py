"""`modnas-fast bench report`: the page in a browser, Markdown, and the README's tables."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks.harness import RESULTS
from modnas_fast.bench.report import (
    Section,
    load_results,
    readme_tables,
    render_html,
    render_markdown,
    renewed,
    sections,
)
from modnas_fast.bench.rows import Row
from modnas_fast.bench.tables import own_tables
from modnas_fast.cli import main
from modnas_fast.errors import ModnasError

CHECKOUT = Path(__file__).parents[1]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# What a browser says of every drawing: its title, how large it is, how many lines and words are drawn in it.
LOOK = """<script>
document.title = JSON.stringify([...document.querySelectorAll("svg")].map(svg => {
  const box = svg.getBoundingClientRect();
  const drawn = [...svg.querySelectorAll("path")].filter(path => path.getTotalLength() > 0).length;
  const inside = [...svg.querySelectorAll("text")].filter(text => {
    const at = text.getBoundingClientRect();
    return at.left >= box.left - 2 && at.right <= box.right + 2 && at.top >= box.top - 2 && at.bottom <= box.bottom + 2;
  }).length;
  return [svg.getAttribute("aria-label"), box.width, box.height, drawn, svg.querySelectorAll("text").length, inside];
}));
</script>"""


HERE = {"versions": {}, "machine": "m", "threads": 2, "commit": "c"}


def committed() -> list[Section]:
    return load_results([RESULTS])


@pytest.mark.parametrize("place", ["README.md", "benchmarks/results/trainings/README.md"])
def test_the_readme_shows_the_results(place: str) -> None:
    """After `modnas-fast bench report --readme README.md` it does."""
    text = (CHECKOUT / place).read_text(encoding="utf-8")
    assert re.findall(r"<!-- bench: ([^\n]+) -->", text), "there is no table of results"
    assert renewed(text, readme_tables(committed())) == text


def test_another_machine_s_results_leave_the_readme_as_it_is() -> None:
    """Even where they come first."""
    text = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    elsewhere = [
        part
        for section in committed()
        for part in sections("a", [{**row, "machine": "a-machine-of-others"} for row in section.rows])
    ]
    tables = readme_tables([*elsewhere, *committed()])
    assert renewed(text, tables) == text
    assert "training @ a-machine-of-others" in tables


def test_a_readme_s_tables_are_replaced_and_nothing_else() -> None:
    text = "before\n<!-- bench: denoise @ here -->\n| old |\n<!-- end of bench -->\nafter\n"
    assert renewed(text, {"denoise @ here": "| new |\n"}) == text.replace("old", "new")
    with pytest.raises(ModnasError, match="no results for the table 'denoise @ here'; there are supernet"):
        renewed(text, {"supernet": ""})


def test_markdown_has_every_row_that_is_latest() -> None:
    rows = [
        {"op": "step", "backend": b, "median_ms": ms, **HERE}
        for b, ms in (("ours", 900.0), ("ours", 1234.0), ("theirs", 0.5))
    ]
    text = render_markdown(sections("m.json", rows))
    assert "| ours |" in text
    assert "1.23 s" in text
    assert "500 µs" in text
    assert "900" not in text
    assert readme_tables(sections("m.json", rows)).keys() == {"step @ m"}


def test_places_are_apart() -> None:
    """Rows of one file that were measured on two machines, or on a CPU and a GPU, share no table."""
    rows = [
        {"op": "step", "backend": "ours", "median_ms": ms, **HERE, **where}
        for ms, where in ((1.0, {}), (2.0, {"machine": "n"}), (3.0, {"device": "GPU"}), (4.0, {"device": "cpu"}))
    ]
    found = sections("rows.json", rows)
    assert [section.title for section in found] == ["m (rows)", "n (rows)", "m, GPU (rows)"]
    assert [[row["median_ms"] for row in section.rows] for section in found] == [[1.0, 4.0], [2.0], [3.0]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "has no rows; modnas-fast bench measures some"),
        ('[{"op": "x"}]', "row 1 has no 'machine'; results are what modnas-fast bench writes"),
        ('{"op": "x"}', "results are a JSON list of objects"),
    ],
)
def test_files_without_our_rows_are_told(
    content: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows.json").write_text(content)
    assert main(["bench", "report", str(tmp_path), "-o", str(tmp_path / "page.md")]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_a_browser_draws_every_plot(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    html = render_html(committed())
    assert "<script" not in html
    assert not re.findall(r'(?:src|href)="(?!#)', html)
    page.write_text(html.replace("</body>", LOOK + "</body>"), encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--user-data-dir={tmp_path}/c"]
    command = [str(CHROMIUM), *flags, "--window-size=1280,2000", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in done.stderr
    found = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert found is not None, done.stderr
    drawings = json.loads(found[1].replace("&amp;", "&"))
    titles = [title for title, *_ in drawings]
    assert any(title.startswith("training step, T=1, 16×1×64×64, 2 threads, intel-r") for title in titles)
    assert {"PSNR against time", "PSNR against parameters", "PSNR against MACs", "Roofline"} <= {*titles}
    for title, width, height, lines, texts, inside in drawings:
        assert width > 400, title
        assert height > 60, title
        assert lines > 10, title
        assert texts > 5, title
        assert inside == texts, f"{title}: {texts - inside} words leave the drawing"


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("page.html", "page.md"):
        assert main(["bench", "report", "-o", str(tmp_path / name)]) == 0
        assert (tmp_path / name).stat().st_size > 1000
    (tmp_path / "mine.html").write_text("my own")
    for target, message in (("mine.html", "no report of ours"), ("page.pdf", "a report ends in .html or .md")):
        assert main(["bench", "report", "-o", str(tmp_path / target)]) == 2
        assert message in capsys.readouterr().err
    assert main(["bench", "report", str(tmp_path / "nothing"), "-o", str(tmp_path / "page.md")]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_verbs_of_a_checkout(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "train", "--help"]) == 0
    assert "One training step of MoD-NAS-B" in capfd.readouterr().out
    assert main(["bench", "gate", "--help"]) == 0
    assert "The ratios that must hold" in capfd.readouterr().out
    assert main(["bench", "train", "--batch", "0"]) == 2
    assert "argument --batch: '0' is no whole number of at least 1" in capfd.readouterr().err
    missing = ["--data", "nope", "--validation", "nope", "--steps", "1", "--runs", str(tmp_path)]
    assert main(["bench", "recipe", *missing]) == 2
    error = capfd.readouterr().err
    assert "bench_recipe: " in error
    assert "nope" in error
    assert "Traceback" not in error
    monkeypatch.setattr("modnas_fast.cli.bench._CHECKOUT", tmp_path)
    assert main(["bench", "train"]) == 2
    assert "benchmarks/bench_train.py, which only a checkout" in capfd.readouterr().err
    assert main(["bench", "report"]) == 2
    assert "no results of its own" in capfd.readouterr().err


def test_the_engine_beside_pytorch_by_size_only_within_one_run() -> None:
    def row(backend: str, size: int, ms: float, date: str) -> Row:
        shape = [1, 1, size, size]
        same = {"op": "denoise", "shape": shape, "peak_mib": 300.2, **HERE}
        return {**same, "backend": backend, "median_ms": ms, "date": date}

    rows = [row("torch", 512, 990, "old"), row("torch", 256, 188, "old"), row("engine", 256, 40, "new")]
    (table,) = own_tables([*rows, row("torch", 256, 160, "new")])
    assert table.head == ("gray image", "engine", "peak memory of the process", "PyTorch", "peak memory of the process")
    assert table.rows == [
        ("256×256", "40 ms (4.0×)", "300 MiB", "160 ms", "300 MiB"),
        ("512×512", "", "", "990 ms", "300 MiB"),
    ]
    assert own_tables(rows)[0].rows[0][1] == "40 ms"  # another run's PyTorch gives no ratio


def test_training_is_compared_within_one_run() -> None:
    def row(way: str, ms: float, date: str, batch: int = 16) -> Row:
        same = {"op": "training step", "mode": "T=1", "dtype": "float32", "device": "cpu", **HERE}
        return {**same, "shape": [batch, 1, 64, 64], "backend": way, "median_ms": ms, "date": date}

    (table,) = own_tables([row("channels_last", 400, "old"), row("fast_convolutions", 200, "old")])
    assert table.rows == [
        ("channels_last", "float32", "400 ms", "40"),
        ("fast_convolutions", "float32", "200 ms (2.00×)", "80"),
    ]
    (table,) = own_tables([row("channels_last", 400, "old"), row("fast_convolutions", 200, "new")])
    assert table.rows[1] == ("fast_convolutions", "float32", "200 ms", "80")
    usual, other = own_tables([row("channels_last", 400, "old"), row("channels_last", 100, "new", batch=4)])
    assert usual.rows == [("channels_last", "float32", "400 ms", "40")]
    assert other.title == "One step of training, other shapes"
    assert other.rows == [("channels_last", "T=1", "float32", "4×1×64×64", "2", "100 ms", "c")]


def test_rows_stand_in_one_table() -> None:
    common = {"op": "denoise", "mode": "whole image", "dtype": "float32", "shape": [1, 1, 64, 64], **HERE}
    rows = [{**common, "backend": name, "median_ms": ms, "date": "d"} for name, ms in (("engine", 1.0), ("mnn", 2.0))]
    (table,) = own_tables(rows)
    assert (table.name, table.rows) == ("engine", [("engine", "1 ms (2.00×)"), ("mnn", "2 ms")])
    _, later = own_tables([*rows, {**rows[0], "date": "e"}])  # alone, so there is no rival to compare it with
    assert (later.title, len(later.rows)) == ("Denoising, run by run", 1)


def test_triton_ops_beside_torch_compile_and_a_copy() -> None:
    common = {"op": "relax", "mode": "forward", "dtype": "bfloat16", "shape": [4, 48, 512, 512], "machine": "a"}
    common |= {"device": "NVIDIA", "threads": 2, "versions": {}, "commit": "c", "date": "d", "copy_gb_per_s": 2000.0}
    times = {"triton": 0.1, "eager": 0.4, "compiled": 0.12}
    rows = [{**common, "backend": name, "median_ms": ms, "gb_per_s": 150 / ms} for name, ms in times.items()]
    (table,) = own_tables(rows)
    assert (table.name, table.command) == ("ops", "modnas-fast bench ops")
    assert (table.head, table.rows) == (("op", "4×48×512×512, forward"), [("relax", "100 µs (1.20×, 75%)")])
