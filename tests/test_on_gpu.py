"""The command for GPU machines: what it runs, remembers and tells, with stages that need no GPU."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.on_gpu import run_stages, table


def test_failures_are_told_and_tried_again_and_nothing_passed_is_repeated(tmp_path: Path) -> None:
    count = "from pathlib import Path; p = Path({!r}); p.write_text(p.read_text() + 'x' if p.exists() else 'x')"
    once, door = tmp_path / "once", tmp_path / "door"
    stages = {
        "good": ("-c", count.format(str(once)) + "; print('twelve rows')"),
        "bad": ("-c", f"import pathlib, sys; print('no door'); sys.exit(not pathlib.Path({str(door)!r}).exists())"),
        "late": ("-c", "import time; time.sleep(30)"),
    }
    out = tmp_path / "out"
    done = run_stages(stages, out, limit=3)
    assert [result["passed"] for result in done.values()] == [True, False, False]
    text = table(done, out)
    assert "good           passed" in text
    assert "    twelve rows" in text
    assert "bad            FAILED" in text
    assert "    no door" in text
    assert "late           too long" in text
    door.touch()
    stages["late"] = ("-c", "pass")
    done = run_stages(stages, out, limit=30)
    assert all(result["passed"] for result in done.values())
    assert once.read_text() == "x"
    assert json.loads((out / "stages.json").read_text()) == done
