"""The command for GPU machines: what it runs, remembers and tells, with stages that need no GPU."""

from __future__ import annotations

import json
import re
from pathlib import Path

from benchmarks.on_gpu import CUT_OFF, run_stages, table


def test_failures_are_told_and_tried_again_and_nothing_passed_is_repeated(tmp_path: Path) -> None:
    count = "from pathlib import Path; p = Path({!r}); p.write_text(p.read_text() + 'x' if p.exists() else 'x')"
    once, door = tmp_path / "once", tmp_path / "door"
    stages = {
        "good": ("-c", count.format(str(once)) + "; print('twelve rows')"),
        "bad": ("-c", f"import pathlib, sys; print('no door'); sys.exit(not pathlib.Path({str(door)!r}).exists())"),
        "late": ("-c", "import time; time.sleep(30)"),
    }
    out = tmp_path / "out"
    done = run_stages(stages, out, seconds=6)
    assert [result["passed"] for result in done.values()] == [True, False, False]
    text = table(done, out)
    assert re.search(r"good +[\d.]+ s  passed", text)
    assert "    twelve rows" in text
    assert re.search(r"bad +[\d.]+ s  FAILED \(1\)", text)
    assert "    no door" in text
    assert re.search(r"late +[\d.]+ s  too long for a call", text)
    door.touch()
    stages["late"] = ("-c", "pass")
    done = run_stages(stages, out, seconds=60)
    assert all(result["passed"] for result in done.values())
    assert once.read_text() == "x"
    assert json.loads((out / "stages.json").read_text()) == done


def test_a_call_ends_in_time_and_the_next_goes_on(tmp_path: Path) -> None:
    stages = {"paper": ("-c", "import time; time.sleep(30)"), "after": ("-c", "print('here')")}
    done = run_stages(stages, tmp_path, seconds=1)
    assert [result["status"] for result in done.values()] == [CUT_OFF, CUT_OFF]
    assert CUT_OFF in table(done, tmp_path)
    stages["paper"] = ("-c", "pass")
    assert all(result["passed"] for result in run_stages(stages, tmp_path, seconds=60).values())
