"""What an engine runs on an image of one size, as a table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class PlanRow:
    """One layer of a stage: its output's size and bytes, multiply-accumulates, mean seconds (0: not measured).

    On CUDA a row is a launch, which may do several layers, and `traffic` the bytes that it has to read and write at
    least, weights included; on the CPU it is 0.
    """

    name: str
    kernel: str
    height: int
    width: int
    channels_in: int
    channels_out: int
    macs: int
    bytes: int
    seconds: float
    traffic: int = 0


@dataclass(frozen=True)
class Plan:
    """All layers of one stage; `str` is a table. `threads` is 0 where a GPU computes."""

    variant: str
    threads: int
    stages: int
    rows: tuple[PlanRow, ...]
    working_bytes: int
    dtype: str

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates of all stages, as direct convolutions would do them."""
        return self.stages * sum(row.macs for row in self.rows)

    @cached_property
    def traffic(self) -> int:
        """Bytes that all stages have to move at least; 0 on the CPU."""
        return self.stages * sum(row.traffic for row in self.rows)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        threads = f", {self.threads} thread{'s' * (self.threads > 1)}" if self.threads else ""
        yield (
            f"{self.variant}, {self.dtype}{threads}, {self.stages} stage"
            f"{'s' * (self.stages > 1)}, {self.macs / 1e9:.3f} GMAC, {self.working_bytes / 2**20:.1f} MiB"
        )
        yield f"{'layer':12} {'kernel':20} {'size':>11} {'width':>9} {'MMAC':>9} {'MiB':>7} {'ms':>8} {'GMAC/s':>7}"
        for row in self.rows:
            size, width = f"{row.height}x{row.width}", f"{row.channels_in}->{row.channels_out}"
            line = f"{row.name:12} {row.kernel:20} {size:>11} {width:>9} {row.macs / 1e6:9.2f} {row.bytes / 2**20:7.2f}"
            rate = f" {row.seconds * 1e3:8.3f} {row.macs / row.seconds / 1e9:7.1f}" if row.seconds else ""
            yield line + rate
