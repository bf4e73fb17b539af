"""Results as tables: what the report and the README show, each with the command that measures it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

from modnas_fast.bench.contenders import LABELS, NETWORKS, PAPER, STAND_INS, label
from modnas_fast.bench.paper import COUNTS, QUALITY, READING, SETS, SETTINGS, TIME
from modnas_fast.bench.rows import Row
from modnas_fast.bench.verdicts import Line, milliseconds_per_megapixel, projected_seconds, time_ratio, verdict_lines

RECIPE = "training recipe"  # these rows' op
SUPERNET_SHAPE, TRAINING_SHAPE = [12, 1, 64, 64], [16, 1, 64, 64]  # what the benchmarks measure unless told otherwise
_JUDGED = ("table", "network", "what", "paper", "here", "verdict", "note")


@dataclass(frozen=True)
class Table:
    """A head, rows of cells as long, and what to know; `name` is what README's markers call it."""

    name: str
    title: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    command: str
    note: str = ""

    def markdown(self) -> str:
        lines = [self.head, ("---",) * len(self.head), *self.rows]
        return "\n".join("|" + "|".join(f" {cell} ".replace("  ", " ") for cell in line) + "|" for line in lines)

    def text(self) -> str:
        """For terminals: columns of their widest cell, all but the first to the right."""
        lines = [self.head, *self.rows]
        widths = [max(len(line[index]) for line in lines) for index in range(len(self.head))]
        return "\n".join(
            "  ".join(
                cell.rjust(width) if index else cell.ljust(width)
                for index, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        )

    def html(self) -> str:
        head = "".join(f"<th>{escape(cell)}</th>" for cell in self.head)
        body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>\n" for row in self.rows)
        caption = "".join(f"<p>{escape(note)}</p>" for note in (self.note,) if note)
        return (
            f"<h2>{escape(self.title)}</h2>\n{caption}<p><code>{escape(self.command)}</code></p>\n"
            f'<div class="wide"><table>\n<tr>{head}</tr>\n{body}</table></div>'
        )


def own_tables(rows: Sequence[Row]) -> list[Table]:
    """Of our own benchmarks' rows at one place, the last of each kind; every row stands in one table."""
    latest = latest_rows(rows)
    sizes = [row for row in latest if row["op"] == "denoise" and "mode" not in row]
    columns = _engine_columns(rows)
    steps = [row for row in latest if row["op"] == "supernet W-step" and row.get("shape") == SUPERNET_SHAPE]
    training = [row for row in latest if row["op"] == "training step" and row.get("shape") == TRAINING_SHAPE]
    ops = [row for row in latest if "copy_gb_per_s" in row]
    tables = [_denoise(sizes), _engine(columns), _supernet(steps), _ops(ops), _training(training), recipe_table(rows)]
    engine = (row for column in columns for row in column.values())
    shown = {id(row) for row in (*sizes, *steps, *ops, *training, *engine)}
    others = [row for row in latest if id(row) not in shown]
    tables += [_any(op, [row for row in others if row["op"] == op]) for op in dict.fromkeys(x["op"] for x in others)]
    return [table for table in tables if table.rows]


def paper_tables(rows: Sequence[Row]) -> list[Table]:
    """Of the rows of one `measure_paper`."""
    lines = verdict_lines(rows)
    command = paper_command(rows)
    tables = [_claims(lines), times_table(rows, lines), _counts(lines), _scores(lines), _left(lines)]
    return [replace(table, command=command) for table in tables if table.rows]


def paper_command(rows: Sequence[Row]) -> str:
    """What measures such rows, with the options that they were measured with."""
    head: Row = next((row for row in rows if row["op"] == SETTINGS), {})
    had = {row.get("data", "Urban100") for row in rows if row["op"] in (TIME, QUALITY)}
    sets = [data for data in SETS if data in had]
    words = ["modnas-fast bench paper", *(["--data", *sets] if sets else [])]
    words += [f"--{key} {head[key]}" for key in ("images", "crop") if head.get(key)]
    return " ".join(words if head.get("device", "cpu") == "cpu" else [*words, "--device cuda"])


def latest_rows(rows: Sequence[Row]) -> list[Row]:
    """The last of the rows that measure the same on the same machine, times only."""
    found: dict[tuple[str, ...], Row] = {}
    for row in rows:
        if "median_ms" in row:
            key = tuple(
                str(row.get(field))
                for field in ("op", "backend", "mode", "dtype", "shape", "machine", "device", "threads")
            )
            found.pop(key, None)
            found[key] = row
    return list(found.values())


def _denoise(rows: Sequence[Row]) -> Table:
    """By size and backend; the engine's row and PyTorch's are of one run, which gives their ratio."""
    by_way = {(row["shape"][-1], row["backend"]): row for row in rows}
    backends = [name for name in ("engine", "torch") if any(row["backend"] == name for row in rows)]
    cells = []
    for size in sorted({row["shape"][-1] for row in rows}):
        line = [f"{size}×{size}"]
        for backend in backends:
            row, peer = by_way.get((size, backend)), by_way.get((size, "torch"))
            faster = ""
            if row and peer and row is not peer and row["date"] == peer["date"]:
                faster = f" ({peer['median_ms'] / row['median_ms']:.1f}×)"
            line += [duration(row["median_ms"]) + faster, f"{row['peak_mib']:.0f} MiB"] if row else ["", ""]
        cells.append(tuple(line))
    titles = {"engine": "engine", "torch": "PyTorch"}
    head = ("gray image", *(cell for name in backends for cell in (titles[name], "peak memory of the process")))
    return Table("denoise", "Denoising by image size", head, cells, "python -m benchmarks.bench_denoise")


def _engine_columns(rows: Sequence[Row]) -> list[dict[str, Row]]:
    """By backend, the last run of each size, precision and number of threads that had the engine and a rival; on a GPU,
    of each network and size of a batch.
    """
    runs: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in rows:
        if row["op"] == "denoise" and "median_ms" in row and "mode" in row:
            batch, side = row["shape"][0], row["shape"][-1]
            kind = (row["mode"], batch, side) if _on_gpu(row) else ("", row["dtype"] != "float32", side, row["threads"])
            runs.setdefault((kind, row["date"]), {})[row["backend"]] = row
    latest = {key[0]: runs[key] for key in sorted(runs) if len(runs[key]) > 1 and "engine" in runs[key]}
    return [latest[kind] for kind in sorted(latest)]


def _engine(columns: Sequence[dict[str, Row]]) -> Table:
    """The engine beside its rivals, a column a size; each column is one run, since only there ratios mean something."""
    cells = []
    for backend in dict.fromkeys(name for column in columns for name in sorted(column, key=lambda x: x != "engine")):
        first = next(column[backend] for column in columns if backend in column)
        line = [f"{backend}, {first['dtype']}" if _on_gpu(first) else backend]
        for column in columns:
            found = column.get(backend)
            peers = [row["median_ms"] for name, row in column.items() if name != "engine"]
            faster = f" ({min(peers) / found['median_ms']:.2f}×)" if found and backend == "engine" else ""
            line.append(duration(found["median_ms"]) + faster if found else "")
        cells.append(tuple(line))
    head = ("backend", *(_engine_column(next(iter(column.values()))) for column in columns))
    command = _command("modnas-fast bench engine", [row for column in columns for row in column.values()])
    return Table("engine", "The engine beside its peers", head, cells, command)


def _engine_column(row: Row) -> str:
    side = f"{row['shape'][-1]}²"
    if _on_gpu(row):  # the mode is "MODEL x T, on the device"
        stages = row["mode"].split(",")[0].split(" x ")[-1]
        batch = row["shape"][0]
        return (f"{batch} × " if batch > 1 else "") + side + (f", T = {stages}" if stages != "1" else "")
    threads = ", one thread" if row["threads"] == 1 else ""
    return f"{side}{threads}{', ' + row['dtype'] if row['dtype'] != 'float32' else ''}"


def _on_gpu(row: Row) -> bool:
    return bool(row.get("device", "cpu") != "cpu")


def _supernet(rows: Sequence[Row]) -> Table:
    by_way = {(row["backend"], row["dtype"]): row for row in rows}
    dtypes = list(dict.fromkeys(row["dtype"] for row in rows))
    cells = []
    for backend in dict.fromkeys(row["backend"] for row in rows):
        line = [backend]
        for dtype in dtypes:
            row, base = by_way.get((backend, dtype)), by_way.get(("reference", dtype))
            if row is None:
                line += ["", ""]
                continue
            faster = f" ({base['median_ms'] / row['median_ms']:.2f}×)" if base and row is not base else ""
            line += [duration(row["median_ms"]) + faster, f"{row['peak_mib']:.0f} MiB" if row["peak_mib"] else ""]
        cells.append(tuple(line))
    head = ("backend", *(cell for dtype in dtypes for cell in (dtype, "peak memory")))
    return Table("supernet", "One W-step of the supernet", head, cells, _command("modnas-fast bench supernet", rows))


def _ops(rows: Sequence[Row]) -> Table:
    """A Triton op a line: its times, over torch.compile of its reference, and what share of a copy's rate it has."""
    ways = list(dict.fromkeys((tuple(row["shape"]), row["mode"]) for row in rows))
    by_way = {(row["op"], row["backend"], tuple(row["shape"]), row["mode"]): row for row in rows}
    cells = []
    for op in dict.fromkeys(row["op"] for row in rows):
        line = [op]
        for way in ways:
            row, peer = by_way.get((op, "triton", *way)), by_way.get((op, "compiled", *way))
            faster = f"{peer['median_ms'] / row['median_ms']:.2f}×, " if row and peer else ""
            share = row["gb_per_s"] / row["copy_gb_per_s"] if row else 0.0
            line.append(f"{duration(row['median_ms'])} ({faster}{share:.0%})" if row else "")
        cells.append(tuple(line))
    head = ("op", *(f"{'×'.join(map(str, shape))}, {mode}" for shape, mode in ways))
    note = "In brackets over torch.compile, and the rate of the least bytes that it can move as a share of a copy's."
    return Table("ops", "The Triton ops", head, cells, _command("modnas-fast bench ops", rows), note)


def _training(rows: Sequence[Row]) -> Table:
    """Patches a second, and over PyTorch's channels_last loop at the same precision."""
    cells = []
    for row in rows:
        alike = [x for x in rows if all(x[key] == row[key] for key in ("dtype", "mode", "date"))]
        base = next((x for x in alike if x["backend"] == "channels_last"), None)
        faster = f" ({base['median_ms'] / row['median_ms']:.2f}×)" if base and row is not base else ""
        patches = 1e3 * row["shape"][0] / row["median_ms"]
        speed = f"{patches:.3g}" if patches < 999.5 else f"{patches:.0f}"
        cells.append((row["backend"], row["dtype"], duration(row["median_ms"]) + faster, speed))
    head = ("convolutions", "dtype", "a step", "patches a second")
    return Table("training", "One step of training", head, cells, _command("modnas-fast bench train", rows))


def recipe_table(rows: Sequence[Row]) -> Table:
    """Every lever's last run, with its gain over the mean of the base's seeds."""
    latest = {row["backend"]: row for row in rows if row["op"] == RECIPE}
    bases = [row["psnr"] for name, row in latest.items() if name.startswith("base")]
    cells = [
        (
            name,
            row["mode"],
            f"{row['psnr']:.3f} dB",
            f"{row['psnr'] - sum(bases) / len(bases):+.3f} dB" if bases else "",
            f"{row['ssim']:.4f}",
            f"{row['minutes']:.1f}",
        )
        for name, row in latest.items()
    ]
    head = ("lever", "budget", f"PSNR on {'/'.join(sorted({row['validation'] for row in latest.values()}))}")
    note = f"The base's seeds span {max(bases) - min(bases):.3f} dB: a gain within that is none." if bases else ""
    return Table(
        "recipe",
        "Levers of the training recipe",
        (*head, "over the base", "SSIM", "minutes"),
        cells,
        "modnas-fast bench recipe",
        note,
    )


def _any(op: str, rows: Sequence[Row]) -> Table:
    """Rows as they are; a column that would be empty is left out."""
    head = ("backend", "what", "dtype", "shape", "threads", "median", "20–80 %", "peak memory", "commit")
    lines = [
        (
            str(row.get("backend", "")),
            str(row.get("mode", "")),
            str(row.get("dtype", "")),
            "×".join(map(str, row.get("shape", ()))),
            str(row["threads"]),
            duration(row["median_ms"]),
            f"{duration(row['p20_ms'])}–{duration(row['p80_ms'])}" if "p20_ms" in row else "",
            f"{row['peak_mib']:.0f} MiB" if row.get("peak_mib") else "",
            row.get("commit", ""),
        )
        for row in rows
    ]
    kept = [index for index in range(len(head)) if any(line[index] for line in lines)]
    cells = [tuple(line[index] for index in kept) for line in lines]
    title, command = _OTHERS.get(op, (op[:1].upper() + op[1:].replace("_", " "), "modnas-fast bench ops"))
    name = op.replace(" ", "-")
    return Table(name, title, tuple(head[index] for index in kept), cells, _command(command, rows))


# What an op's rows that have no table of their own are called, and what measures them; of all others, the Triton ops'.
_OTHERS = {
    "denoise": ("Denoising, run by run", "modnas-fast bench engine"),
    "denoise a set": ("Denoising a set", "modnas-fast bench engine --data DIR"),
    "import": ("Importing, over torch’s own import", "python -m benchmarks.bench_denoise"),
    "search step": ("One step of a search", "modnas-fast bench search"),
    "supernet W-step": ("One W-step of the supernet, other shapes", "modnas-fast bench supernet"),
    "training batch": ("Making a batch for training", "modnas-fast bench train"),
    "training step": ("One step of training, other shapes", "modnas-fast bench train --batch N --patch P"),
}


def _command(command: str, rows: Sequence[Row]) -> str:
    """With the device where it was not the CPU."""
    elsewhere = any(_on_gpu(row) for row in rows)
    return f"{command} --device cuda" if elsewhere and command != "modnas-fast bench ops" else command


def _claims(lines: Sequence[Line]) -> Table:
    cells = [
        (line.network, line.quantity, f"{line.paper:.1%}", _share(line.measured), line.verdict, line.note)
        for line in lines
        if line.table == "Claims"
    ]
    head = ("network", "claim", "paper", "here", "verdict", "note")
    return Table("claims", "The paper’s claims of speed and size", head, cells, "modnas-fast bench paper")


def times_table(rows: Sequence[Row], lines: Sequence[Line]) -> Table:
    """A network a line; seconds of all its images, and for a megapixel."""
    verdicts = {line.network: line for line in lines if line.quantity.startswith("time, ×")}
    counts = {row["network"]: row for row in rows if row["op"] == COUNTS}
    speeds = milliseconds_per_megapixel(rows)
    times = {(row["network"], row["backend"]): row for row in rows if row["op"] == TIME}
    seconds = {row["name"]: row["seconds"] for row in PAPER["table2_and_6"]}
    cells = []
    for name in NETWORKS:
        for backend in ("torch", "engine"):
            row = times.get((name, backend))
            if row is None:
                continue
            line = verdicts.get(label(name)) if backend == "torch" else None
            ratio = time_ratio(rows, name, "mod-nas-t1", backend)
            speed = speeds.get((name, backend))
            cells.append(
                (
                    label(name) + ("*" if name in STAND_INS else "") + (", engine" if backend == "engine" else ""),
                    row.get("failed") or (f"{speed / 1e3:.2f}" if speed else ""),
                    f"{sum(row['samples_ms']) / 1e3:.3g}",
                    f"{len(row['samples_ms'])}",
                    f"{ratio[0]:.2f}" if ratio else "",
                    f"{line.paper:.2f}" if line else "",
                    line.verdict if line else "",
                    f"{seconds[name]:.2f} s" if seconds.get(name) else "",
                    f"{projected_seconds(counts[name]):.2f} s"
                    if backend == "torch" and name in counts and name != "tnrd"
                    else "",
                )
            )
    head = (
        "network",
        "s a megapixel",
        "total, s",
        "images",
        "× T=1 here",
        "paper",
        "verdict",
        "2080 Ti, all of Urban100: paper",
        "projection: arithmetic alone at its peak",
    )
    notes = [f"* {text}." for name, text in STAND_INS.items() if (name, "torch") in times]
    apart = sum(sum(row["samples_ms"]) for row in rows if row["op"] == READING) / 1e3
    note = " ".join([f"Reading and noise, apart: {apart:.3g} s.", *notes])
    return Table("times", "Time on Urban100, σ = 25", head, cells, "modnas-fast bench paper", note)


def _judged(lines: Sequence[Line], quantities: tuple[str, ...], digits: str) -> list[tuple[str, ...]]:
    """The measured lines whose quantity begins with one of these, `_JUDGED` being their columns."""
    return [
        (
            line.table,
            line.network,
            line.quantity,
            f"{line.paper:g}",
            f"{line.measured:{digits}}",
            line.verdict,
            line.note,
        )
        for line in lines
        if line.measured is not None and line.quantity.startswith(quantities)
    ]


def _counts(lines: Sequence[Line]) -> Table:
    cells = _judged(lines, ("parameters, k", "MACs at"), ".6g")
    return Table("counts", "Parameters and MACs", _JUDGED, cells, "modnas-fast bench paper")


def _scores(lines: Sequence[Line]) -> Table:
    cells = _judged(lines, ("PSNR", "SSIM"), ".4f")
    return Table("scores", "PSNR and SSIM", _JUDGED, cells, "modnas-fast bench paper --data Set12 BSD68 Urban100")


def _left(lines: Sequence[Line]) -> Table:
    left: dict[tuple[str, str], list[str]] = {}
    for line in lines:
        if line.measured is None:
            left.setdefault((line.table, line.note), []).append(line.network)
    cells = [
        (table, reason, str(len(names)), ", ".join(dict.fromkeys(names))) for (table, reason), names in left.items()
    ]
    return Table("left", "Not measured", ("table", "why", "figures", "of"), cells, "modnas-fast bench paper")


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def duration(ms: float) -> str:
    """To three digits, in the unit that reads best."""
    if ms < 0.9995:
        return f"{1e3 * ms:.3g} µs"
    return f"{ms:.3g} ms" if ms < 999.5 else f"{ms / 1e3:.3g} s"


def counted(count: int, what: str) -> str:
    """As in "1 thread" and "2 threads"."""
    return f"{count} {what}{'s' * (count != 1)}"


def published_psnr() -> Iterator[tuple[str, float]]:
    """(network, dB) on Urban100 at σ = 25, as published: by the paper, and of today's by others."""
    from modnas_fast.networks.baselines import BASELINES

    for row in PAPER["table2_and_6"]:
        if row["psnr"]["Urban100"][1] is not None:
            yield row["name"], row["psnr"]["Urban100"][1]
    for name in NETWORKS:
        if name not in LABELS and BASELINES[name].psnr:
            value = BASELINES[name].psnr["Urban100"][1]
            if value is not None:
                yield name, value
