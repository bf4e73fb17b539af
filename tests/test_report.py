"""The search report: one sound page, self-contained, that says what the records say."""

from __future__ import annotations

import builtins
import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from modnas_fast import ModnasError
from modnas_fast.cli import main
from modnas_fast.search.history import append_record
from modnas_fast.search.report import write_report
from tests.search_histories import LAYERS, healthy_history, softmax

CONFIG = {"output": "runs/a", "data": ["data/train"], "epochs": 60, "warmup_epochs": 4, "stages": 2, "lr": 1e-3}
CURVES = ["PSNR of the supernet", "How decided the search is", "Size of the derived network"]
CHOICES = ["Operations over the epochs", "Depth over the epochs", "Width: distribution of β", "The network derived now"]
VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """Checks that tags nest and close, and collects text, headings, ids and SVGs."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.ids: list[str] = []
        self.headings: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(self.source)
        self.close()
        assert not self.open
        self.svgs = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", self.source, re.DOTALL)]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("h1", "h2", "h3"):
            self.headings.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value or "" for name, value in attrs if name == "id"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data
        if self.open and self.open[-1] in ("h1", "h2", "h3"):
            self.headings[-1] += data

    def texts(self, figure: int) -> list[str]:
        return ["".join(text.itertext()) for text in self.svgs[figure].iter("{http://www.w3.org/2000/svg}text")]


def write_run(folder: Path, records: list[dict[str, Any]], config: dict[str, Any] | None = None) -> Path:
    folder.mkdir()
    for record in records:
        append_record(folder / "history.jsonl", record)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 12 of 60 epochs, 4 of them W alone."""
    folder = write_run(tmp_path_factory.mktemp("report") / "a run & <more>", healthy_history(12, warmup=4), CONFIG)
    write_report([folder], folder / "report.html")
    return folder


@pytest.fixture(scope="module")
def page(run: Path) -> Page:
    return Page(run / "report.html")


def test_every_section_is_there(page: Page) -> None:
    assert page.headings == [
        "a run & <more>",
        *CURVES,
        CHOICES[0],
        "Operations after epoch 12",
        *CHOICES[1:],
    ]
    assert len(page.svgs) == 8
    assert all(svg.get("aria-label") and svg.get("viewBox") for svg in page.svgs)


def test_page_needs_nothing_else(page: Page) -> None:
    """No scripts, links, fonts or pictures from elsewhere: all references point into the page or hold their data."""
    assert not page.tags & {"script", "link", "img", "iframe", "object", "embed", "base"}
    references = re.findall(r'(?:href|src|action|data)="([^"]*)"', page.source) + re.findall(
        r"url\(([^)]*)\)", page.source
    )
    assert references
    for reference in references:
        assert reference.startswith(("#", "data:image/png;base64,"))
    assert "@import" not in page.source
    without_namespaces = re.sub(r'xmlns(:\w+)?="[^"]*"', "", page.source)
    assert "http" not in without_namespaces


def test_ids_are_unique_and_references_resolve(page: Page) -> None:
    assert len(page.ids) == len(set(page.ids)) > 100
    used = re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', page.source)
    assert {first or second for first, second in used} <= set(page.ids)


def test_figures_are_the_records(page: Page) -> None:
    records = healthy_history(12, warmup=4)
    last = records[-1]
    best = max(records, key=lambda record: record["validation_psnr"])
    for text in (
        "12 of 60",
        f"{last['validation_psnr']:.2f} dB",
        f"best {best['validation_psnr']:.2f} dB, epoch {best['epoch']}",
        f"{last['train_psnr']:.2f} dB",
        f"{last['parameters']:,}",
        f"{last['macs_with_bias'] / 1e9:.3f} G",
        "12 min 18 s",
        "49 min 12 s left",
        "data/train",
        "warmup_epochs",
    ):
        assert text in page.text


def test_drawings_hold_the_records(page: Page) -> None:
    last = healthy_history(12, warmup=4)[-1]
    assert set(LAYERS) <= set(page.texts(3))
    cells = [f"{weight:.2f}" for weights in last["alpha"].values() for weight in weights]
    table = page.texts(4)
    assert sorted(cells) == sorted(text for text in table if re.fullmatch(r"\d\.\d\d", text))
    assert page.texts(5).count("●") == 21
    assert "a run & <more>, epoch 12" in page.texts(7)
    assert {"W only", "training patches", "validation"} <= set(page.texts(0))


def test_another_process_gives_the_same_bytes_and_never_loads_pyplot(run: Path, tmp_path: Path) -> None:
    code = f"""if True:
        import sys
        from modnas_fast.search.report import write_report
        assert "matplotlib" not in sys.modules
        import matplotlib
        matplotlib.rcParams["backend"] = "agg"  # else looking at the settings loads pyplot, to find one
        settings = dict(matplotlib.rcParams)
        write_report([{str(run)!r}], {str(tmp_path / "again.html")!r})
        assert "matplotlib.pyplot" not in sys.modules
        assert dict(matplotlib.rcParams) == settings
    """
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (tmp_path / "again.html").read_bytes() == (run / "report.html").read_bytes()
    assert list(tmp_path.iterdir()) == [tmp_path / "again.html"]


def test_warnings_stand_at_the_top(tmp_path: Path) -> None:
    records = healthy_history(12, warmup=4)
    for record in records[8:]:
        record["skipped_layers"] = 18 / 21
        record["gamma"] = {name: softmax([1.0, *[0.0] * (len(p) - 1)]) for name, p in record["gamma"].items()}
        record["train_psnr"] = math.nan
        record["validation_psnr"] = None
    page = Page(_reported(write_run(tmp_path / "sick", records)))
    alert = page.source.index('role="alert"')
    assert alert < page.source.index("<svg")
    assert "does without 18 of its 21 normal layers" in page.text
    assert "4 epochs since epoch 9" in page.text


def test_a_healthy_run_says_so(page: Page) -> None:
    assert "The collapse monitor sees nothing wrong." in page.text
    assert 'role="alert"' not in page.source


def test_a_run_without_epochs_has_its_configuration(tmp_path: Path) -> None:
    page = Page(_reported(write_run(tmp_path / "fresh", [], CONFIG)))
    assert "No epoch is finished yet" in page.text
    assert "data/train" in page.text
    assert page.svgs == []


def test_one_epoch_of_weights_without_validation(tmp_path: Path) -> None:
    records = healthy_history(1, warmup=4)
    records[0]["validation_psnr"] = None
    page = Page(_reported(write_run(tmp_path / "first", records)))
    assert page.headings == ["first", CURVES[0]]
    assert "So far W alone is trained" in page.text
    assert "Without validation it does not watch the PSNR." in page.text
    assert f"{records[0]['train_psnr']:.2f} dB" in page.text


def test_the_first_epoch_without_warmup(tmp_path: Path) -> None:
    page = Page(_reported(write_run(tmp_path / "early", healthy_history(1, warmup=0))))
    assert len(page.svgs) == 8


def test_broken_epochs_are_drawn_as_far_as_they_go(tmp_path: Path) -> None:
    records = healthy_history(4, warmup=1)
    lost = dict.fromkeys(("beta", "genotype", "parameters", "macs", "macs_with_bias", "skipped_layers"))
    records[-1] |= {**lost, "train_psnr": math.nan, "validation_psnr": math.nan, "alpha_entropy": math.nan}
    records[-1]["alpha"] = {name: [math.nan] * len(weights) for name, weights in records[-1]["alpha"].items()}
    records[-1]["gamma"] = {name: [math.nan] * len(weights) for name, weights in records[-1]["gamma"].items()}
    page = Page(_reported(write_run(tmp_path / "broken", records)))
    assert "NaN or infinite values in epoch 4" in page.text
    assert CHOICES[-1] not in page.headings


def test_several_runs_are_compared_first(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = write_run(tmp_path / run.name, healthy_history(9, warmup=4, seed=1), CONFIG | {"stages": 1, "seed": 5})
    assert main(["report", str(run), str(other), "-o", str(tmp_path / "both.html")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "both.html")
    page = Page(tmp_path / "both.html")
    names = [f"{run.name} (1)", f"{run.name} (2)"]
    assert page.headings[:5] == ["2 searches compared", "Settings that differ", *CURVES]
    assert [heading for heading in page.headings if heading in names] == names
    assert page.headings.count(CHOICES[-1]) == 2
    assert len(page.svgs) == 3 + 2 * 8
    assert len(page.ids) == len(set(page.ids))
    assert {f"{name}, validation" for name in names} <= set(page.texts(0))
    assert "seed" in page.text
    assert "9 of 60" in page.text


def test_command_writes_into_the_run_and_refreshes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path / "run", healthy_history(1, warmup=1))
    for _ in range(2):
        assert main(["report", str(folder)]) == 0
    assert capsys.readouterr().out.split() == [str(folder / "report.html")] * 2
    assert {path.name for path in folder.iterdir()} == {"history.jsonl", "report.html"}


def test_command_refuses_what_it_cannot_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path / "run", healthy_history(1, warmup=1))
    mine = tmp_path / "mine.html"
    mine.write_text("<html>mine</html>")
    (tmp_path / "empty").mkdir()
    broken = write_run(tmp_path / "broken", [])
    (broken / "config.json").write_text("[1")
    for arguments, message in (
        ([str(folder), str(folder)], "say with -o"),
        ([str(tmp_path / "empty")], "not a search's run folder"),
        ([str(broken)], "config.json: cannot be read: not JSON"),
        ([str(folder), "-o", str(mine)], "no report of ours"),
        ([str(folder), "-o", str(tmp_path)], "cannot be replaced"),
    ):
        assert main(["report", *arguments]) == 2
        assert message in capsys.readouterr().err
    assert mine.read_text() == "<html>mine</html>"
    assert not (tmp_path / "empty" / "report.html").exists()


def test_without_matplotlib_the_error_names_the_extra(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = builtins.__import__

    def without(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ModuleNotFoundError(f"No module named {name!r}")
        return genuine(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModnasError, match=r"pip install 'modnas-fast\[plot\]'"):
        write_report([run], run / "report.html")


def _reported(folder: Path) -> Path:
    write_report([folder], folder / "report.html")
    return folder / "report.html"
