"""Genotypes as data: what is accepted, what is refused in which words, and the paper's Tables 7 and 8 row by row."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modnas_fast.errors import ModnasError
from modnas_fast.genotype import (
    DECODER_BLOCKS,
    ENCODER_BLOCKS,
    LAYERS_PER_BLOCK,
    PRIMITIVES,
    Block,
    Genotype,
    GenotypeError,
    Layer,
    Skip,
    published_genotypes,
)
from modnas_fast.networks.summary import summarize

# The paper's rows, transcribed: (block, kind of operation as the paper words it, kernel, C_in, C_out) for its layers in
# order; None is "skip". Widths are the paper's own; where its rows contradict each other (its "72→36" fuse rows, AR's
# DB3.3) C_out is what counts, since input widths follow from the predecessor.
TABLE_7 = [
    ("EB1", ("conv", 3, 40), ("residual block", 3, 40), ("residual block", 3, 40), ("conv, stride 2", 3, 24)),
    ("EB2", ("conv", 3, 32), ("separable conv", 5, 40), None, ("nearest interpolation", 0, 32)),
    ("EB3", ("conv", 5, 40), None, ("residual block", 3, 40), ("nearest interpolation", 0, 32)),
    ("DB1", ("conv", 5, 48), ("dilated conv", 3, 48), None, ("bilinear interpolation", 0, 40)),
    ("DB2", None, ("dilated conv", 5, 40), None, ("bilinear interpolation", 0, 40)),
    ("DB3", ("residual block", 3, 32), None, ("residual block", 3, 32), ("bilinear interpolation", 0, 32)),
    ("DB4", ("residual block", 3, 40), ("residual block", 3, 40), None),
]
TABLE_8 = [
    ("EB1", ("residual block", 3, 48), None, ("residual block", 3, 40), ("conv, stride 2", 3, 48)),
    ("EB2", ("dilated conv", 5, 32), None, ("separable conv", 5, 48), ("area interpolation", 0, 48)),
    ("EB3", None, ("residual block", 3, 40), None, ("conv, stride 2", 3, 48)),
    ("DB1", ("separable conv", 5, 48), ("conv", 5, 32), None, ("bilinear interpolation", 0, 48)),
    ("DB2", ("residual block", 3, 48), ("dilated conv", 5, 48), ("conv", 5, 32), ("nearest interpolation", 0, 48)),
    ("DB3", None, ("conv", 3, 48), ("residual block", 3, 48), ("deconvolution", 3, 40)),
    ("DB4", ("dilated conv", 3, 40), ("residual block", 3, 40), ("conv", 3, 40)),
]
WORDS = {
    "conv": "conv",
    "conv, stride 2": "conv",
    "separable conv": "sep_conv",
    "dilated conv": "dil_conv",
    "residual block": "res_block",
    "deconvolution": "deconv",
}


def layer_of(row):
    words, kernel, channels = row
    interpolation = words.removesuffix(" interpolation")
    return Layer(interpolation if interpolation != words else f"{WORDS[words]}_{kernel}x{kernel}", channels)


def small_genotype(**changes):
    """A valid genotype with every kind of layer; `changes` replace its fields."""
    normal = (Layer("conv_3x3", 4), Skip(0), Layer("res_block_3x3", 8))
    fields = {
        "channels": 4,
        "encoder": tuple(Block(normal, Layer("area", 4)) for _ in range(3)),
        "decoder": (*(Block(normal, Layer("sub_pixel", 4)) for _ in range(3)), Block(normal)),
        "name": "small",
    }
    return Genotype(**(fields | changes))


widths = st.integers(1, 200)


def layers(kind):
    return st.builds(Layer, st.sampled_from(PRIMITIVES[kind]), widths)


def blocks(kind):
    normals = [layers("normal") | st.builds(Skip, st.integers(0, index)) for index in range(LAYERS_PER_BLOCK)]
    return st.builds(Block, st.tuples(*normals), layers(kind) if kind else st.none())


genotypes = st.builds(
    Genotype,
    widths,
    st.tuples(*[blocks("down")] * ENCODER_BLOCKS),
    st.tuples(*[blocks("up")] * (DECODER_BLOCKS - 1), blocks(None)),
    st.text(),
)


def test_vocabulary_is_a_contract():
    assert PRIMITIVES["normal"] == (
        "conv_3x3", "conv_5x5", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5", "res_block_3x3",
    )  # fmt: skip
    assert PRIMITIVES["down"] == ("conv_3x3", "bilinear", "nearest", "area")
    assert PRIMITIVES["up"] == ("deconv_3x3", "bilinear", "nearest", "area", "sub_pixel")
    assert list(PRIMITIVES) == ["normal", "down", "up"]


@pytest.mark.parametrize(("name", "table"), [("modnas-b", TABLE_7), ("modnas-ar", TABLE_8)])
def test_published_genotypes_are_the_papers_tables(name, table):
    genotype = Genotype.load(name)
    assert genotype.name == name
    assert genotype.channels == 48  # rows "stem"
    found = dict(genotype.blocks())
    assert list(found) == [row[0] for row in table]
    for block_name, *rows in table:
        block = found[block_name]
        chosen = [*block.layers, *([block.resample] if block.resample else [])]
        assert len(chosen) == len(rows)
        for layer, row in zip(chosen, rows, strict=True):
            if row is None:
                assert isinstance(layer, Skip)
            else:
                assert layer == layer_of(row)


@pytest.mark.parametrize("name", ["modnas-b", "modnas-ar"])
def test_published_skips_name_their_predecessor(name):
    for _, block in Genotype.load(name).blocks():
        for index, layer in enumerate(block.layers):
            assert not isinstance(layer, Skip) or layer.source == index


def test_published_names():
    assert published_genotypes() == ("modnas-ar", "modnas-b", "modnas-fast-a", "modnas-fast-b")


@pytest.mark.parametrize("name", ["modnas-fast-a", "modnas-fast-b"])
def test_cards_of_our_own_count_right(name):
    ours = Genotype.load(name)
    card = json.loads(ours.derivation)
    assert (ours.name, card["parameters"]) == (name, summarize(ours).parameters)
    assert card["g_macs_256x256"] == pytest.approx(summarize(ours, height=256, width=256).macs / 1e9, abs=5e-4)


@settings(max_examples=60, deadline=None)
@given(genotypes)
def test_round_trips(genotype):
    document = genotype.to_json()
    again = Genotype.from_json(document)
    assert (again, again.name, again.to_json()) == (genotype, genotype.name, document)
    pasted = eval(repr(genotype), {"Genotype": Genotype, "Block": Block, "Layer": Layer, "Skip": Skip})
    assert (pasted, pasted.name) == (genotype, genotype.name)
    assert pickle.loads(pickle.dumps(genotype)) == genotype == copy.deepcopy(genotype)
    assert hash(again) == hash(pasted) == hash(genotype)


@settings(max_examples=60, deadline=None)
@given(genotypes)
def test_live_layers_are_those_that_the_definition_reaches(genotype):
    """Follow Lˡ = L^source by evaluating the definition with sets instead of walking back."""
    for _, block in genotype.blocks():
        reached = [()]  # what L⁰ … Lˡ were computed by
        for index, layer in enumerate(block.layers):
            reached.append(reached[layer.source] if isinstance(layer, Skip) else (*reached[-1], (index, layer)))
        assert block.live_layers() == reached[-1]
        assert block.channels_out(77) == (reached[-1][-1][1].channels if reached[-1] else 77)


def test_live_layers_with_nested_aliases():
    first, second = Layer("conv_3x3", 8), Layer("conv_5x5", 16)
    assert Block((first, Skip(1), Skip(2))).live_layers() == ((0, first),)
    assert Block((first, second, Skip(1))).live_layers() == ((0, first),)
    assert Block((first, Skip(0), second)).live_layers() == (
        (2, second),
    )  # the alias of L⁰ leaves the first layer dead
    assert Block((Skip(0), Skip(1), Skip(2))).live_layers() == ()
    assert Block((first, second, Skip(0))).channels_out(5) == 5


def test_json_has_one_line_a_layer_and_ends_in_a_newline():
    text = Genotype.load("modnas-b").to_json()
    assert text.endswith("}\n")
    assert sum('"op"' in line for line in text.splitlines()) == 7 * 3 + 6
    document = json.loads(text)
    assert list(document) == ["format", "version", "name", "channels", "encoder", "decoder"]
    assert document["encoder"][1]["layers"][2] == {"op": "skip", "source": 2}


def test_immutable_and_hashable():
    genotype = small_genotype()
    for target, name in ((genotype, "channels"), (genotype.encoder[0], "layers"), (Layer("area", 4), "op")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(target, name, 1)
    assert len({genotype, small_genotype(), small_genotype(channels=5)}) == 2


def test_name_is_a_label_and_no_part_of_equality():
    assert small_genotype(name="a") == small_genotype(name="b")
    assert hash(small_genotype(name="a")) == hash(small_genotype(name="b"))
    assert small_genotype() != small_genotype(channels=5)
    assert Genotype.load("modnas-b") != Genotype.load("modnas-ar")


def test_lists_become_tuples():
    genotype = small_genotype()
    listed = [Block(list(block.layers), block.resample) for block in genotype.encoder]
    again = small_genotype(encoder=listed)
    assert again == genotype
    assert isinstance(again.encoder, tuple)
    assert isinstance(again.encoder[0].layers, tuple)
    hash(again)


def change(document, path, value):
    *parents, last = path
    for key in parents:
        document = document[key]
    if value is ...:
        del document[last]
    else:
        document[last] = value


LAYER = {"op": "conv_3x3", "channels": 8}
BROKEN = [
    (("format",), "something.else", r"format is 'something.else'"),
    (("format",), ..., r"lacks the field 'format'"),
    (("version",), 2, r"version is 2; this release reads version 1"),
    (("version",), "1", r"version is '1'"),
    (("version",), ..., r"lacks the field 'version'"),
    (("name",), 5, r"name must be text, not 5"),
    (("channels",), 0, r"channels is 0; a width"),
    (("channels",), -8, r"channels is -8"),
    (("channels",), 4.0, r"channels is 4.0"),
    (("channels",), True, r"channels is True"),
    (("channels",), "48", r"channels is '48'"),
    (("channels",), None, r"channels is None"),
    (("channels",), ..., r"lacks the field 'channels'"),
    (("chanels",), 48, r"unknown field 'chanels'; its fields are channels"),
    (("encoder",), ..., r"lacks the field 'encoder'"),
    (("encoder",), {}, r"encoder must be a list of blocks, not dict"),
    (("encoder",), None, r"encoder must be a list of blocks, not NoneType"),
    (("encoder",), [], r"encoder has 0 blocks; it must have 3"),
    (("encoder", 3), {"layers": [LAYER] * 3, "resample": {"op": "area", "channels": 4}}, r"encoder has 4 blocks"),
    (("decoder", 3), ..., r"decoder has 3 blocks; it must have 4"),
    (("encoder", 1), [], r"encoder\[1\] must be a JSON object, not list"),
    (("encoder", 1, "layers"), ..., r"encoder\[1\] lacks the field 'layers'"),
    (("encoder", 1, "layers"), "conv_3x3", r"encoder\[1\]\.layers must be a list of layers, not str"),
    (("encoder", 1, "layers"), [LAYER] * 2, r"encoder\[1\]\.layers has 2 layers; it must have 3"),
    (("encoder", 1, "layers"), [LAYER] * 4, r"encoder\[1\]\.layers has 4 layers"),
    (("encoder", 1, "gamma"), 1, r"encoder\[1\] has an unknown field 'gamma'"),
    (("encoder", 1, "resample"), ..., r"encoder\[1\]\.resample is missing"),
    (("encoder", 1, "resample"), None, r"encoder\[1\]\.resample is missing"),
    (("encoder", 1, "resample"), "area", r"encoder\[1\]\.resample must be a JSON object, not str"),
    (("encoder", 1, "resample"), {"op": "skip", "source": 0}, r"encoder\[1\]\.resample\.op is 'skip'"),
    (("encoder", 1, "resample", "op"), "sub_pixel", r"encoder\[1\]\.resample\.op is 'sub_pixel', which is no down op"),
    (("decoder", 0, "resample", "op"), "conv_3x3", r"decoder\[0\]\.resample\.op .* no up .*did you mean 'deconv_3x3'"),
    (("decoder", 3, "resample"), {"op": "area", "channels": 4}, r"decoder\[3\]\.resample must be absent"),
    (("decoder", 2, "layers", 0), "skip", r"decoder\[2\]\.layers\[0\] must be a JSON object, not str"),
    (("decoder", 2, "layers", 0, "op"), ..., r"decoder\[2\]\.layers\[0\] lacks the field 'op'"),
    (("decoder", 2, "layers", 0, "op"), "conv3x3", r"layers\[0\]\.op is 'conv3x3'.*did you mean 'conv_3x3'\?"),
    (("decoder", 2, "layers", 0, "op"), "sep_conv", r"layers\[0\]\.op is 'sep_conv'.*did you mean 'sep_conv_\dx\d'\?"),
    (
        ("decoder", 2, "layers", 0, "op"),
        "attention",
        r"'attention', which is no normal operation; choose from conv_3x3,",
    ),
    (("decoder", 2, "layers", 0, "op"), "bilinear", r"'bilinear', which is no normal operation"),
    (("decoder", 2, "layers", 0, "op"), None, r"decoder\[2\]\.layers\[0\]\.op is None"),
    (("decoder", 2, "layers", 0, "op"), ["conv_3x3"], r"decoder\[2\]\.layers\[0\]\.op is \['conv_3x3'\]"),
    (("decoder", 2, "layers", 0, "channels"), ..., r"decoder\[2\]\.layers\[0\] lacks the field 'channels'"),
    (("decoder", 2, "layers", 0, "channels"), True, r"decoder\[2\]\.layers\[0\]\.channels is True"),
    (("decoder", 2, "layers", 0, "channels"), 0, r"decoder\[2\]\.layers\[0\]\.channels is 0"),
    (("decoder", 2, "layers", 0, "channels"), 8.0, r"decoder\[2\]\.layers\[0\]\.channels is 8.0"),
    (("decoder", 2, "layers", 0, "source"), 0, r"decoder\[2\]\.layers\[0\] has an unknown field 'source'"),
    (("decoder", 2, "layers", 1), {"op": "skip"}, r"layers\[1\] lacks the field 'source'"),
    (("decoder", 2, "layers", 1), {"op": "skip", "source": 0, "channels": 8}, r"layers\[1\] has an unknown field"),
    (("decoder", 2, "layers", 1, "source"), 2, r"layers\[1\]\.source is 2; layer 2 can skip to 0…1"),
    (("decoder", 2, "layers", 1, "source"), -1, r"layers\[1\]\.source is -1"),
    (("decoder", 2, "layers", 1, "source"), True, r"layers\[1\]\.source is True"),
    (("decoder", 2, "layers", 1, "source"), "0", r"layers\[1\]\.source is '0'"),
]


@pytest.mark.parametrize(("path", "value", "says"), BROKEN)
def test_broken_documents_name_the_field(path, value, says):
    document = json.loads(small_genotype().to_json())
    if path[-1] == 3 and path[0] == "encoder":
        document["encoder"].append(None)
    change(document, path, value)
    with pytest.raises(GenotypeError, match=says) as caught:
        Genotype.from_json(json.dumps(document))
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ModnasError)


@pytest.mark.parametrize(
    "text",
    ["", "{", "conv_3x3", '{"format": }', "[" * 100_000, small_genotype().to_json()[:-3], "{'format': 1}"],
    ids=range(7),
)
def test_not_json(text):
    with pytest.raises(GenotypeError, match="not valid JSON"):
        Genotype.from_json(text)


@pytest.mark.parametrize("text", ["[]", "5", "null", '"modnas-b"'])
def test_json_but_no_object(text):
    with pytest.raises(GenotypeError, match="the genotype must be a JSON object"):
        Genotype.from_json(text)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"channels": True}, "channels is True"),
        ({"name": None}, "name must be text"),
        ({"encoder": ()}, "encoder has 0 blocks"),
        ({"encoder": None}, "encoder must be Blocks, not NoneType"),
        ({"decoder": 4}, "decoder must be Blocks, not int"),
        ({"encoder": ("conv_3x3",) * 3}, r"encoder\[0\] must be a Block, not str"),
        ({"encoder": (Block(("conv_3x3",) * 3, Layer("area", 4)),) * 3}, r"encoder\[0\]\.layers\[0\] must be a Layer"),
        ({"encoder": (Block((Skip(0),) * 3, Skip(0)),) * 3}, r"encoder\[0\]\.resample is missing"),
    ],
)
def test_built_in_python_is_checked_too(changes, says):
    with pytest.raises(GenotypeError, match=says):
        small_genotype(**changes)


def test_block_of_no_layers_is_refused():
    with pytest.raises(GenotypeError, match="layers must be Layers and Skips, not NoneType"):
        Block(None)


def test_load_by_name_and_by_path(tmp_path):
    path = tmp_path / "sub.json"
    small_genotype().save(path)
    assert Genotype.load(path) == Genotype.load(str(path)) == small_genotype()
    assert Genotype.load(path).name == "small"
    assert Genotype.load("modnas-b").channels == 48


def test_load_names_what_is_wrong(tmp_path):
    names = "modnas-ar, modnas-b, modnas-fast-a, modnas-fast-b"
    with pytest.raises(GenotypeError, match=rf"'modnas-c': No such file.*one of: {names}"):
        Genotype.load("modnas-c")
    with pytest.raises(GenotypeError, match="Is a directory"):
        Genotype.load(tmp_path)
    with pytest.raises(GenotypeError, match="not a text file"):
        Genotype.load("null\0byte")
    path = tmp_path / "binary.json"
    path.write_bytes(bytes(range(256)))
    with pytest.raises(GenotypeError, match="not a text file"):
        Genotype.load(path)
    path.write_text("{}")
    with pytest.raises(GenotypeError, match=r"binary.json: the genotype lacks the field 'channels'"):
        Genotype.load(path)


def test_save_is_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "genotype.json"
    small_genotype().save(path)

    def full_disk(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="No space"):
        small_genotype(channels=99).save(path)
    monkeypatch.undo()
    assert Genotype.load(path) == small_genotype()
    assert os.listdir(tmp_path) == ["genotype.json"]
    small_genotype(channels=99).save(path)
    assert Genotype.load(path).channels == 99


DERIVATION = {"keep": 0.9, "layers": [{"layer": "EB1.1", "kept": [0, 3], "share": 1 / 3}, {"σ": None}], "more": {}}


def test_derivation_survives_the_json(tmp_path):
    genotype = small_genotype(derivation=json.dumps(DERIVATION))
    text = genotype.to_json()
    document = json.loads(text)
    assert list(document) == ["format", "version", "name", "channels", "encoder", "decoder", "derivation"]
    assert document.pop("derivation") == DERIVATION
    assert document == json.loads(small_genotype().to_json())
    assert '      {"layer": "EB1.1", "kept": [0, 3], "share": 0.3333333333333333},\n' in text  # an entry a line
    genotype.save(tmp_path / "derived.json")
    again = Genotype.load(tmp_path / "derived.json")
    assert json.loads(again.derivation) == DERIVATION
    assert (again.derivation, again.to_json()) == (genotype.derivation, text)
    assert pickle.loads(pickle.dumps(genotype)).derivation == copy.deepcopy(genotype).derivation == genotype.derivation


def test_derivation_is_no_part_of_equality():
    genotype = small_genotype(derivation=json.dumps(DERIVATION))
    assert genotype == small_genotype()
    assert hash(genotype) == hash(small_genotype())
    assert repr(genotype) == repr(small_genotype())
    assert small_genotype().derivation == ""
    assert "derivation" not in json.loads(small_genotype().to_json())
    assert json.loads(small_genotype(derivation="{}").to_json())["derivation"] == {}
    with pytest.raises(dataclasses.FrozenInstanceError):
        genotype.derivation = ""


@pytest.mark.parametrize("value", [None, [], 5, "text"])
def test_derivation_must_be_an_object(value):
    document = json.loads(small_genotype().to_json()) | {"derivation": value}
    with pytest.raises(GenotypeError, match="derivation must be a JSON object, not"):
        Genotype.from_json(json.dumps(document))
    with pytest.raises(GenotypeError, match="derivation must be"):
        small_genotype(derivation=value)


@pytest.mark.parametrize("text", ["{", '{"keep": NaN}', "[" * 100_000, " "])
def test_derivation_must_be_json(text):
    with pytest.raises(GenotypeError, match="derivation") as caught:
        small_genotype(derivation=text)
    assert "\n" not in str(caught.value)
