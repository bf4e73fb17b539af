"""A progress line on a terminal, and a line now and then in a log."""

from __future__ import annotations

import sys
import time


class ProgressLine:
    """`text  37% [#######.............] 1:02 left`, redrawn in place on a terminal, now and then elsewhere."""

    def __init__(self, log_every: float = 30.0) -> None:
        self._stream = sys.stderr
        self._live = self._stream.isatty()
        self._every = 0.1 if self._live else log_every
        self._started = self._drawn = time.monotonic()
        self._shown = ""

    def update(self, share: float, text: str, seconds_left: float | None = None) -> None:
        """Show `text` at `share` (0–1) done; the time left is estimated from the time used unless given."""
        now = time.monotonic()
        if now - self._drawn < self._every and share < 1:
            return
        self._drawn = now
        if seconds_left is None:
            seconds_left = (now - self._started) * (1 - share) / share if share > 0 else float("inf")
        filled = int(20 * share)
        line = f"{text} {share:4.0%} [{'#' * filled}{'.' * (20 - filled)}] {_clock(seconds_left)} left"
        if line == self._shown:
            return
        self._stream.write("\r" + line.ljust(len(self._shown)) if self._live else line + "\n")
        self._shown = line
        self._stream.flush()

    def say(self, message: str) -> None:
        """Print a line of its own to standard error, above the progress line."""
        self.clear()
        print(message, file=self._stream, flush=True)

    def clear(self) -> None:
        """Wipe the progress line."""
        if self._live and self._shown:
            self._stream.write("\r" + " " * len(self._shown) + "\r")
            self._stream.flush()
            self._shown = ""


def _clock(seconds: float) -> str:
    if seconds == float("inf"):
        return "?"
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
