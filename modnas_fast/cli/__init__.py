"""The `modnas-fast` command: one module a verb, with `add_arguments(parser)` and `run(arguments) -> exit status`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

from modnas_fast.errors import ModnasError
from modnas_fast.version import __version__

VERBS = {
    "denoise": "denoise image files, folders or globs",
    "evaluate": "score a model on a folder of clean images",
    "train": "train a network from a YAML configuration",
    "search": "search an architecture as a YAML configuration says",
    "derive": "derive a network from a searched supernet",
    "draw": "draw networks of a given latency from a searched supernet's probabilities",
    "profile-ops": "measure the operations on this machine, for searches with a latency penalty",
    "report": "write the HTML report of one or several searches",
    "summary": "count parameters, MACs, receptive field and memory of a genotype, or of the baselines",
    "plot": "draw a genotype as SVG or PNG",
    "export": "write a model as ONNX or as a PyTorch program, to run without this package",
    "models": "list the models that come with the package",
    "bench": "the paper's tables measured here, our own benchmarks, comparisons and reports of results",
    "doctor": "say what runs on this machine, and why",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit status: 0 done, 1 some inputs or files failed, 2 bad request, 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="modnas-fast", description="Fast image denoising with MoD-NAS networks.")
    parser.add_argument("--version", action="version", version=f"modnas-fast {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb, summary in VERBS.items():
        module = _module(verb)
        module.add_arguments(verbs.add_parser(verb, help=summary, description=module.__doc__))
    parsed = parser.parse_args(arguments)
    try:
        return int(_module(parsed.verb).run(parsed))
    except ModnasError as error:
        print(f"modnas-fast {parsed.verb}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"modnas-fast {parsed.verb}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (head, say) has what it wanted; without this, Python complains while flushing at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:  # a full disk, a folder that is not ours: nothing that a traceback explains better
        place = f"{error.filename}: " if error.filename else ""
        print(f"modnas-fast {parsed.verb}: {place}{error.strerror or error}", file=sys.stderr)
        return 1


def _module(verb: str) -> ModuleType:
    return import_module(f"modnas_fast.cli.{verb.replace('-', '_')}")
