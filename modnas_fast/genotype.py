"""Genotypes: what an architecture is, as data. Immutable, comparable, printable, and one versioned JSON file each.

The vocabulary is the paper's Fig. 1(b)-(d). A stage has three encoder blocks EB1-EB3 and four decoder blocks DB1-DB4;
a block is three normal layers and, but for DB4, one resampling layer (down in the encoder, up in the decoder).
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from modnas_fast.atomic import write_atomically
from modnas_fast.errors import ModnasError

# The order within each tuple is a contract: the supernet's α index it, and saved weights and genotypes rely on it.
PRIMITIVES: Mapping[str, tuple[str, ...]] = {
    "normal": (
        "conv_3x3",
        "conv_5x5",
        "sep_conv_3x3",
        "sep_conv_5x5",
        "dil_conv_3x3",
        "dil_conv_5x5",
        "res_block_3x3",
    ),
    "down": ("conv_3x3", "bilinear", "nearest", "area"),
    "up": ("deconv_3x3", "bilinear", "nearest", "area", "sub_pixel"),
}

ENCODER_BLOCKS = 3
DECODER_BLOCKS = 4
LAYERS_PER_BLOCK = 3
SIZE_MULTIPLE = 2**ENCODER_BLOCKS  # a stage works on heights and widths that are multiples of this

_FORMAT = "modnas_fast.genotype"
_VERSION = 1


class GenotypeError(ModnasError):
    """A genotype that cannot be read or built; the message names the field."""


@dataclass(frozen=True)
class Layer:
    """A chosen operation and its number of output channels; the input width is the predecessor's output width."""

    op: str
    channels: int


@dataclass(frozen=True)
class Skip:
    """A normal layer that the depth search dropped: Lˡ is L^source, with L⁰ the block's (fused) input."""

    source: int


@dataclass(frozen=True)
class Block:
    """Three normal layers, then the down- or up-sampling layer (`None` in the last decoder block)."""

    layers: tuple[Layer | Skip, ...]
    resample: Layer | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", _to_tuple(self.layers, "layers", "Layers and Skips"))

    def live_layers(self) -> tuple[tuple[int, Layer], ...]:
        """The normal layers that reach the block's output, first to last, as (index from 0, layer).

        Every layer reads its predecessor, so aliases leave a chain: following it back from the last layer finds all of
        it.
        """
        chain: list[tuple[int, Layer]] = []
        position = len(self.layers)
        while position > 0:
            layer = self.layers[position - 1]
            if isinstance(layer, Skip):
                position = layer.source
            else:
                chain.append((position - 1, layer))
                position -= 1
        return tuple(reversed(chain))

    def channels_out(self, channels_in: int) -> int:
        """Width of the block's last normal layer, before any resampling."""
        chain = self.live_layers()
        return chain[-1][1].channels if chain else channels_in


@dataclass(frozen=True)
class Genotype:
    """One searched architecture; all stages of a network share it.

    Two genotypes are equal when they build the same network: `name` and `derivation` say where it is from and take no
    part. The printed form, which leaves `derivation` out, is Python that can be pasted back; `to_json`/`from_json`
    round-trip.

    Args:
        channels: width C of the stem, two 3×3 convolutions.
        encoder: EB1-EB3, each with a down-sampling layer.
        decoder: DB1-DB4, the first three with an up-sampling layer. Before their layers DB2-DB4 fuse
            concat(up-sampled, encoder feature) by a 3×3 convolution to half the concatenated width.
        name: label for people.
        derivation: the text of a JSON object, free in form, of the numbers that decided the choices (`search.derive`
            writes one); empty where there is none.

    Raises:
        GenotypeError: a field has the wrong type, an unknown operation or an impossible width or source.
    """

    channels: int
    encoder: tuple[Block, ...]
    decoder: tuple[Block, ...]
    name: str = field(default="", compare=False)
    derivation: str = field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "derivation", _canonical_derivation(self.derivation))
        object.__setattr__(self, "encoder", _to_tuple(self.encoder, "encoder", "Blocks"))
        object.__setattr__(self, "decoder", _to_tuple(self.decoder, "decoder", "Blocks"))
        _check(self)

    def blocks(self) -> Iterator[tuple[str, Block]]:
        """Every block with the paper's name for it, in the order in which they run."""
        for kind, blocks in (("EB", self.encoder), ("DB", self.decoder)):
            for index, block in enumerate(blocks):
                yield f"{kind}{index + 1}", block

    def to_json(self) -> str:
        """The genotype as a JSON document, one layer a line, ending in a newline."""
        lines = ["{", f'  "format": "{_FORMAT}",', f'  "version": {_VERSION},', f'  "name": {json.dumps(self.name)},']
        lines.append(f'  "channels": {self.channels},')
        for key, blocks in (("encoder", self.encoder), ("decoder", self.decoder)):
            lines.append(f'  "{key}": [')
            for index, block in enumerate(blocks):
                rows = [f"      {json.dumps(_layer_to_dict(layer))}" for layer in block.layers]
                lines.append('    {"layers": [')
                lines.append(",\n".join(rows))
                tail = "" if block.resample is None else f', "resample": {json.dumps(_layer_to_dict(block.resample))}'
                lines.append(f"    ]{tail}}}" + ("," if index + 1 < len(blocks) else ""))
            lines.append("  ]," if key == "encoder" or self.derivation else "  ]")
        if self.derivation:
            lines.append('  "derivation": ' + _derivation_lines(json.loads(self.derivation)))
        return "\n".join(lines) + "\n}\n"

    @classmethod
    def from_json(cls, text: str) -> Genotype:
        """Parse `to_json`'s document.

        Raises:
            GenotypeError: not JSON, another format or version, or a field that is missing, unknown or wrong.
        """
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise GenotypeError(f"the genotype is not valid JSON: {error}") from None
        return _from_document(document)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `to_json()` to `path`, atomically."""
        write_atomically(path, self.to_json())

    @classmethod
    def load(cls, name_or_path: str | os.PathLike[str]) -> Genotype:
        """A published genotype by name (see `published_genotypes`), or one from a JSON file.

        Raises:
            GenotypeError: neither a known name nor a readable genotype file.
        """
        name = os.fspath(name_or_path)
        if name in published_genotypes():
            return cls.from_json(_published_folder().joinpath(f"{name}.json").read_text(encoding="utf-8"))
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:  # ValueError: no UTF-8, or a NUL in the name
            known = ", ".join(published_genotypes())
            reason = error.strerror if isinstance(error, OSError) else "it is not a text file"
            raise GenotypeError(f"genotype {name!r}: {reason}; give a JSON file or one of: {known}") from None
        try:
            return cls.from_json(text)
        except GenotypeError as error:
            raise GenotypeError(f"{name}: {error}") from None


def _published_folder() -> Any:
    return resources.files("modnas_fast").joinpath("genotypes")


def published_genotypes() -> tuple[str, ...]:
    """Names of the genotypes that come with the package, sorted."""
    return tuple(sorted(entry.name[:-5] for entry in _published_folder().iterdir() if entry.name.endswith(".json")))


def _layer_to_dict(layer: Layer | Skip) -> dict[str, Any]:
    if isinstance(layer, Skip):
        return {"op": "skip", "source": layer.source}
    return {"op": layer.op, "channels": layer.channels}


def _from_document(document: Any) -> Genotype:
    _require_keys(
        document, "the genotype", {"format", "version", "channels", "encoder", "decoder"}, {"name", "derivation"}
    )
    if document["format"] != _FORMAT:
        raise GenotypeError(f"format is {document['format']!r}; a genotype file says {_FORMAT!r}")
    if document["version"] != _VERSION:
        raise GenotypeError(
            f"version is {document['version']!r}; this release reads version {_VERSION}: upgrade modnas-fast"
        )
    if not isinstance(document.get("name", ""), str):
        raise GenotypeError(f"name must be text, not {document['name']!r}")
    blocks = {key: _blocks_from_list(document[key], key) for key in ("encoder", "decoder")}
    derivation = _derivation_text(document["derivation"]) if "derivation" in document else ""
    return Genotype(document["channels"], blocks["encoder"], blocks["decoder"], document.get("name", ""), derivation)


def _canonical_derivation(text: Any) -> str:
    """`text` as `json.dumps` writes it, so that files and fields round-trip."""
    if text == "":
        return ""
    try:
        entries = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        raise GenotypeError("derivation must be the text of a JSON object, or empty") from None
    return _derivation_text(entries)


def _derivation_text(entries: Any) -> str:
    if not isinstance(entries, dict):
        raise GenotypeError(f"derivation must be a JSON object, not {type(entries).__name__}")
    try:
        return json.dumps(entries, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise GenotypeError(f"derivation is no JSON that can be written: {error}") from None


def _derivation_lines(entries: dict[str, Any]) -> str:
    """The object with a field a line, and of a list an entry a line."""
    fields = []
    for key, value in entries.items():
        text = json.dumps(value)
        if isinstance(value, list) and value:
            text = "[\n" + ",\n".join(f"      {json.dumps(entry)}" for entry in value) + "\n    ]"
        fields.append(f"    {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(fields) + "\n  }"


def _blocks_from_list(entries: Any, where: str) -> tuple[Block, ...]:
    if not isinstance(entries, list):
        raise GenotypeError(f"{where} must be a list of blocks, not {type(entries).__name__}")
    blocks = []
    for index, entry in enumerate(entries):
        place = f"{where}[{index}]"
        _require_keys(entry, place, {"layers"}, {"resample"})
        if not isinstance(entry["layers"], list):
            raise GenotypeError(f"{place}.layers must be a list of layers, not {type(entry['layers']).__name__}")
        layers = tuple(_layer_from_dict(layer, f"{place}.layers[{i}]") for i, layer in enumerate(entry["layers"]))
        resample = None
        if entry.get("resample") is not None:
            layer = _layer_from_dict(entry["resample"], f"{place}.resample")
            if isinstance(layer, Skip):
                raise GenotypeError(f"{place}.resample.op is 'skip'; only normal layers can be skipped")
            resample = layer
        blocks.append(Block(layers, resample))
    return tuple(blocks)


def _layer_from_dict(entry: Any, where: str) -> Layer | Skip:
    if isinstance(entry, dict) and entry.get("op") == "skip":
        _require_keys(entry, where, {"op", "source"}, set())
        return Skip(entry["source"])
    _require_keys(entry, where, {"op", "channels"}, set())
    return Layer(entry["op"], entry["channels"])


def _require_keys(entry: Any, where: str, required: set[str], optional: set[str]) -> None:
    if not isinstance(entry, dict):
        raise GenotypeError(f"{where} must be a JSON object, not {type(entry).__name__}")
    for key in sorted(required - entry.keys()):
        raise GenotypeError(f"{where} lacks the field {key!r}")
    for key in sorted(entry.keys() - required - optional):
        raise GenotypeError(
            f"{where} has an unknown field {key!r}; its fields are {', '.join(sorted(required | optional))}"
        )


def _check(genotype: Genotype) -> None:
    _check_width(genotype.channels, "channels")
    if not isinstance(genotype.name, str):
        raise GenotypeError(f"name must be text, not {genotype.name!r}")
    for key, blocks, count in (
        ("encoder", genotype.encoder, ENCODER_BLOCKS),
        ("decoder", genotype.decoder, DECODER_BLOCKS),
    ):
        if len(blocks) != count:
            raise GenotypeError(f"{key} has {len(blocks)} blocks; it must have {count}")
        for index, block in enumerate(blocks):
            where = f"{key}[{index}]"
            if not isinstance(block, Block):
                raise GenotypeError(f"{where} must be a Block, not {type(block).__name__}")
            _check_layers(block, where)
            _check_resample(block, key, where, last=key == "decoder" and index + 1 == count)


def _check_layers(block: Block, where: str) -> None:
    if len(block.layers) != LAYERS_PER_BLOCK:
        raise GenotypeError(f"{where}.layers has {len(block.layers)} layers; it must have {LAYERS_PER_BLOCK}")
    for index, layer in enumerate(block.layers):
        place = f"{where}.layers[{index}]"
        if isinstance(layer, Skip):
            if not _is_int(layer.source) or not 0 <= layer.source <= index:
                raise GenotypeError(f"{place}.source is {layer.source!r}; layer {index + 1} can skip to 0…{index}")
        elif isinstance(layer, Layer):
            _check_op(layer, "normal", place)
        else:
            raise GenotypeError(f"{place} must be a Layer or a Skip, not {type(layer).__name__}")


def _check_resample(block: Block, key: str, where: str, *, last: bool) -> None:
    if last:
        if block.resample is not None:
            raise GenotypeError(f"{where}.resample must be absent: the last decoder block works at full resolution")
    elif not isinstance(block.resample, Layer):
        raise GenotypeError(f"{where}.resample is missing: every block but the last decoder block resamples")
    else:
        _check_op(block.resample, "down" if key == "encoder" else "up", f"{where}.resample")


def _check_op(layer: Layer, kind: str, where: str) -> None:
    known = PRIMITIVES[kind]
    if layer.op not in known:
        close = difflib.get_close_matches(str(layer.op), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"choose from {', '.join(known)}"
        raise GenotypeError(f"{where}.op is {layer.op!r}, which is no {kind} operation; {hint}")
    _check_width(layer.channels, f"{where}.channels")


def _check_width(width: Any, where: str) -> None:
    if not _is_int(width) or width < 1:
        raise GenotypeError(f"{where} is {width!r}; a width is a whole number of at least 1")


def _to_tuple(items: Any, where: str, what: str) -> tuple[Any, ...]:
    try:
        return tuple(items)
    except TypeError:
        raise GenotypeError(f"{where} must be {what}, not {type(items).__name__}") from None


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
