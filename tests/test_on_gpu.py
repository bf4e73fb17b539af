"""The command for GPU machines: what it runs, remembers and tells, with stages that need no GPU."""

from __future__ import annotations

import argparse
import importlib
import json
import re
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import on_gpu
from benchmarks.on_gpu import CUT_OFF, Stage, readable, run_stages, stages_of, table
from modnas_fast.bench.rows import circumstances, read_rows, write_rows
from modnas_fast.cli import main


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout's results of its own; the file of this machine's rows."""
    monkeypatch.setattr(on_gpu, "RESULTS", tmp_path)
    monkeypatch.setattr(on_gpu, "machine_name", lambda: "here")
    return tmp_path / "here.json"


def python(code: str) -> Stage:
    return Stage(("-c", code))


def test_failures_are_told_and_tried_again_and_nothing_passed_is_repeated(tmp_path: Path) -> None:
    count = "from pathlib import Path; p = Path({!r}); p.write_text(p.read_text() + 'x' if p.exists() else 'x')"
    once, door = tmp_path / "once", tmp_path / "door"
    stages = {
        "good": replace(python(count.format(str(once)) + "; print('a path'); print('twelve tests')"), tells=1),
        "bad": python(f"import pathlib, sys; print('no door'); sys.exit(not pathlib.Path({str(door)!r}).exists())"),
        "late": python("import time; time.sleep(30)"),
    }
    out = tmp_path / "out"
    done = run_stages(stages, out, seconds=6)
    assert [result["passed"] for result in done.values()] == [True, False, False]
    text = table(done, stages, out)
    assert re.search(r"good +[\d.]+ s  passed", text)
    assert "    twelve tests" in text
    assert "a path" not in text
    assert re.search(r"bad +[\d.]+ s  FAILED \(1\)", text)
    assert "    no door" in text
    assert re.search(r"late +[\d.]+ s  too long for a call", text)
    door.touch()
    stages["late"] = python("pass")
    done = run_stages(stages, out, seconds=60)
    assert all(result["passed"] for result in done.values())
    assert once.read_text() == "x"
    assert json.loads((out / "stages.state").read_text()) == done


def test_rows_are_told_as_tables_and_the_folder_is_a_report_s(tmp_path: Path) -> None:
    row = {"op": "step", "backend": "ours", "median_ms": 1.0, **circumstances(), "device": "GPU"}
    stages = {"one": python("pass")}
    done = run_stages(stages, tmp_path, 60)
    write_rows(tmp_path / "rows.json", [row])
    assert "| ours | 2 | 1 ms |" in table(done, stages, tmp_path).replace(f"| {row['threads']} |", "| 2 |")
    assert main(["bench", "report", str(tmp_path), "-o", str(tmp_path / "page.md")]) == 0


def test_another_source_starts_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, out = tmp_path / "root", tmp_path / "out"
    (root / "csrc").mkdir(parents=True)
    (root / "csrc" / "conv.cpp").write_text("one")
    monkeypatch.setattr(on_gpu, "ROOT", root)
    stages = {"count": python(f"open({str(tmp_path / 'count')!r}, 'a').write('x')")}
    for content, runs in (("one", 1), ("one", 1), ("two", 2)):
        (root / "csrc" / "conv.cpp").write_text(content)
        assert run_stages(stages, out, 60)["count"]["passed"]
        assert (tmp_path / "count").read_text() == runs * "x"


def test_images_that_cannot_be_read_are_left_out_with_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("png", "npy"):
        (tmp_path / name).mkdir()
    Image.new("L", (9, 9)).save(tmp_path / "png" / "a.png")
    np.save(tmp_path / "npy" / "a.npy", np.zeros((9, 9), np.uint8))
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    folders = [str(tmp_path / name) for name in ("png", "npy", "nowhere")]
    assert readable(folders) == [folders[1]]
    told = capsys.readouterr().out
    assert re.search(rf"--data {folders[0]} is left out: .*imagecodecs", told)
    assert f"--data {folders[2]} is left out: " in told


def test_a_call_ends_in_time_and_the_next_goes_on(tmp_path: Path) -> None:
    stages = {"paper": Stage(("-c", "import time; time.sleep(30)"), goes_on=True), "after": python("print('here')")}
    done = run_stages(stages, tmp_path, seconds=1)
    assert [result["status"] for result in done.values()] == [CUT_OFF, CUT_OFF]
    assert CUT_OFF in table(done, stages, tmp_path)
    stages["paper"] = python("pass")
    assert all(result["passed"] for result in run_stages(stages, tmp_path, seconds=60).values())


def test_what_never_ends_does_not_keep_the_rest_from_running(tmp_path: Path) -> None:
    stages = {"endless": python("import time; time.sleep(30)"), "after": python("print('here')")}
    assert not run_stages(stages, tmp_path, seconds=1)["after"]["passed"]
    done = run_stages(stages, tmp_path, seconds=5)
    assert done["after"]["passed"]
    assert done["endless"]["tries"] >= 1


def test_a_stage_ends_with_all_that_it_started(tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    child = f"import time, pathlib\nwhile True: pathlib.Path({str(alive)!r}).touch(); time.sleep(0.05)"
    run_stages(
        {"parent": python(f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])")}, tmp_path, 3
    )
    assert alive.exists()
    alive.unlink()
    time.sleep(0.5)
    assert not alive.exists()


def test_rows_of_several_calls_and_machines_are_kept(tmp_path: Path, results: Path) -> None:
    out = tmp_path / "out"
    add = (
        "from pathlib import Path; from modnas_fast.bench.rows import read_rows, write_rows; "
        f"p = Path({str(results)!r}); write_rows(p, [*(read_rows(p) if p.exists() else []), {{{{'op': '{{}}'}}}}])"
    )
    write_rows(results, [{"op": "measured before"}])
    run_stages({"one": python(add.format("one"))}, out, seconds=60)
    assert read_rows(out / "rows.json") == [{"op": "one"}]
    results.unlink()  # another machine, to which the folder went along
    run_stages({"one": python("pass"), "two": python(add.format("two"))}, out, seconds=60)
    assert read_rows(out / "rows.json") == [{"op": "one"}, {"op": "two"}]


def test_a_build_that_is_gone_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_gpu, "ROOT", tmp_path)
    made = tmp_path / "made.so"
    stages = {"build": Stage(("-c", f"open({str(made)!r}, 'w')"), makes="made*.so")}
    assert run_stages(stages, tmp_path, 60)["build"]["passed"]
    made.unlink()
    run_stages(stages, tmp_path, 60)
    assert made.exists()


class _ParsedError(Exception):
    """The arguments were understood."""


@pytest.mark.parametrize(
    ("name", "stage"),
    [(name, stage) for name, stage in stages_of(Path("out"), ["."]).items() if "benchmarks." in str(stage.arguments)],
)
def test_every_benchmark_knows_its_arguments(name: str, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    understand = argparse.ArgumentParser.parse_args

    def parse(parser: argparse.ArgumentParser) -> None:
        understand(parser, stage.arguments[2:])
        raise _ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    with pytest.raises(_ParsedError):
        importlib.import_module(stage.arguments[1]).main()
