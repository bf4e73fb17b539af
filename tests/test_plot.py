"""The drawing of a genotype: complete, legible, deterministic, and without a trace in matplotlib's settings."""

from __future__ import annotations

import builtins
import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import FancyBboxPatch
from PIL import Image

from modnas_fast import Genotype, ModnasError
from modnas_fast.cli import main
from modnas_fast.genotype import Skip, published_genotypes
from modnas_fast.networks.plot import plot_genotype, save_plot
from modnas_fast.networks.summary import summarize
from tests.cases import random_genotype

GENOTYPES = [*map(Genotype.load, published_genotypes()), random_genotype(5), random_genotype(39)]
LABELS = {  # operation → its label, of an output width of {}
    "conv_1x1": "Conv 1×1, {}",
    "conv_3x3": "Conv 3×3, {}",
    "conv_5x5": "Conv 5×5, {}",
    "sep_conv_3x3": "SC 3×3, {}",
    "sep_conv_5x5": "SC 5×5, {}",
    "dil_conv_3x3": "DC 3×3, {}",
    "dil_conv_5x5": "DC 5×5, {}",
    "res_block_3x3": "RB 3×3, {}",
    "nearest": "NI, {}",
    "bilinear": "BI, {}",
    "area": "AI, {}",
    "deconv_3x3": "Deconv 3×3, {}",
    "sub_pixel": "Sub-pixel, {}",
}


@pytest.fixture(scope="module", params=GENOTYPES, ids=lambda genotype: genotype.name)
def drawn(request: pytest.FixtureRequest) -> tuple[Genotype, Any]:
    """A genotype and its drawing, laid out."""
    figure = plot_genotype(request.param)
    FigureCanvasAgg(figure).draw()
    return request.param, figure


@pytest.mark.parametrize("genotype", GENOTYPES, ids=lambda genotype: genotype.name)
def test_svg_names_every_layer_and_width(genotype: Genotype, tmp_path: Path) -> None:
    save_plot(genotype, tmp_path / "net.svg")
    texts = [text.text for text in ElementTree.parse(tmp_path / "net.svg").iter("{http://www.w3.org/2000/svg}text")]
    summary = summarize(genotype)
    for layer in summary.layers:
        if layer.name == "delta":
            continue
        label = f"skip → {layer.source}" if layer.source else LABELS[layer.op].format(layer.channels_out)
        assert texts[texts.index(layer.name) + 1] == label
    assert genotype.name in texts
    assert any(f"{summary.parameters:,} parameters" in text and "G MACs" in text for text in texts)
    assert {"H × W", "H/2 × W/2", "H/4 × W/4", "H/8 × W/8"} <= set(texts)


def test_texts_do_not_overlap_and_stay_on_the_page(drawn: tuple[Genotype, Any]) -> None:
    axes = drawn[1].axes[0]
    texts = [*axes.texts, *axes.get_legend().get_texts()]
    extents = [text.get_window_extent() for text in texts]
    page = drawn[1].bbox
    for text, extent in zip(texts, extents, strict=True):
        assert page.x0 < extent.x0 < extent.x1 < page.x1, text
        assert page.y0 < extent.y0 < extent.y1 < page.y1, text
    for (text, extent), (other, overlapped) in itertools.combinations(zip(texts, extents, strict=True), 2):
        assert not extent.overlaps(overlapped), (text, other)


def test_boxes_have_room_for_their_text_and_for_each_other(drawn: tuple[Genotype, Any]) -> None:
    axes = drawn[1].axes[0]
    boxes = [patch.get_window_extent() for patch in axes.patches if isinstance(patch, FancyBboxPatch)]
    assert len(boxes) == len(summarize(drawn[0]).layers) - 1
    assert not any(box.overlaps(other) for box, other in itertools.combinations(boxes, 2))
    named = {layer.name for layer in summarize(drawn[0]).layers}
    for name, label in itertools.pairwise(axes.texts):
        if name.get_text() in named:
            (box,) = [box for box in boxes if box.overlaps(name.get_window_extent())]
            assert box.x0 < name.get_window_extent().x0
            assert label.get_window_extent().x1 < box.x1


def test_dashes_are_skips_and_colours_are_kinds(drawn: tuple[Genotype, Any]) -> None:
    boxes = [patch for patch in drawn[1].axes[0].patches if isinstance(patch, FancyBboxPatch)]
    colours: dict[tuple[float, ...], str] = {}
    for box, layer in zip(boxes, summarize(drawn[0]).layers, strict=False):
        runs = layer.used and layer.source is None
        assert (box.get_linestyle() in ("-", "solid")) == runs
        assert (box.get_facecolor() == (1.0, 1.0, 1.0, 1.0)) != runs
        if runs:
            kind = LABELS[layer.op].split()[0].rstrip(",")
            assert colours.setdefault(box.get_facecolor(), kind) == kind
    assert len(set(colours.values())) == len(colours)


def test_arrows_follow_the_network() -> None:
    """Counted: one a layer and skip that is passed through, one for the input, one a fused encoder feature."""
    for genotype in GENOTYPES:
        arrows = len(plot_genotype(genotype).axes[0].patches) - 4  # less the bands
        layers = [layer for layer in summarize(genotype).layers if layer.name != "delta"]
        assert arrows - len(layers) == sum(layer.used for layer in layers) + 1 + 3


def test_png_is_a_picture(tmp_path: Path) -> None:
    save_plot(GENOTYPES[0], tmp_path / "net.PNG")
    with Image.open(tmp_path / "net.PNG") as image:
        assert image.format == "PNG"
        picture = np.asarray(image.convert("RGB"))
    assert min(picture.shape[:2]) > 1000
    assert 0.02 < np.mean(picture.std(axis=2) > 15) < 0.5  # coloured boxes on plain ground


def test_same_genotype_gives_the_same_bytes_and_another_others(tmp_path: Path) -> None:
    settings = dict(matplotlib.rcParams)
    names = published_genotypes()
    for file, name in (("first", names[0]), ("second", names[0]), ("other", names[1])):
        save_plot(Genotype.load(name), tmp_path / f"{file}.svg")
    first, second, other = ((tmp_path / f"{file}.svg").read_bytes() for file in ("first", "second", "other"))
    assert first == second != other
    assert b"<dc:date>" not in first
    assert dict(matplotlib.rcParams) == settings


def test_names_are_not_markup(tmp_path: Path) -> None:
    base = GENOTYPES[0]
    genotype = Genotype(base.channels, base.encoder, base.decoder, "a < b & $\\alpha_$")
    save_plot(genotype, tmp_path / "net.svg")
    texts = {text.text for text in ElementTree.parse(tmp_path / "net.svg").iter("{http://www.w3.org/2000/svg}text")}
    assert genotype.name in texts


def test_random_genotypes_have_unused_layers_to_draw() -> None:
    """The cases above are as hard as they claim to be."""
    layers = summarize(GENOTYPES[-1]).layers
    assert sum(not layer.used for layer in layers) >= 8
    assert any(isinstance(layer, Skip) for _, block in GENOTYPES[-1].blocks() for layer in block.layers)


def test_command_writes_and_does_not_overwrite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "net.svg"
    path.write_text("mine")
    assert main(["plot", "modnas-b", "-o", str(path)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert path.read_text() == "mine"
    assert main(["plot", "modnas-b", "-o", str(path), "--overwrite"]) == 0
    assert ElementTree.parse(path).getroot().tag.endswith("svg")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["net.pdf", "net", "net.svg.gz"])
def test_other_suffixes_are_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plot", "modnas-b", "-o", str(tmp_path / name)]) == 2
    assert ".svg or a .png" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_failed_writes_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ModnasError, match="No space left"):
        save_plot(GENOTYPES[0], tmp_path / "net.svg")
    assert not list(tmp_path.iterdir())


def test_without_matplotlib_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    genuine = builtins.__import__

    def without(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ModuleNotFoundError(f"No module named {name!r}")
        return genuine(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModnasError, match=r"pip install 'modnas-fast\[plot\]'"):
        save_plot(GENOTYPES[0], tmp_path / "net.svg")


def test_pyplot_is_never_loaded() -> None:
    code = (
        "import sys; from modnas_fast import Genotype; from modnas_fast.networks import plot; "
        "assert 'matplotlib' not in sys.modules; plot.plot_genotype(Genotype.load('modnas-b')); "
        "assert 'matplotlib.figure' in sys.modules; assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
