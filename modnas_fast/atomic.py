"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def write_atomically(
    path: str | os.PathLike[str], content: bytes | str | Callable[[BinaryIO], object], *, overwrite: bool = True
) -> None:
    """Write beside the path, flush to the disk, then give the whole file its name in one step.

    On any failure, KeyboardInterrupt included, an older file stays as it was and nothing else is left behind.

    Args:
        path: the file; its folder is made.
        content: bytes, text (written as UTF-8), or a function that writes to the stream it is given.
        overwrite: replace an existing file.

    Raises:
        FileExistsError: the file exists and `overwrite` is false, also where another process was faster.
        OSError: whatever the file system says, with the name of a file.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with partial.open("x+b") as stream:
            if callable(content):
                content(stream)
            else:
                stream.write(content.encode() if isinstance(content, str) else content)
            stream.flush()
            os.fsync(stream.fileno())
        if overwrite:
            os.replace(partial, target)
        else:
            _link(partial, target)
    except OSError as error:
        if error.filename is None:  # a full disk does not say whose file it was
            error.filename = os.fspath(target)
        raise
    finally:
        partial.unlink(missing_ok=True)


def _link(partial: Path, target: Path) -> None:
    """Name the file only if the name is free: a link, unlike a replacement, fails where another writer was faster."""
    try:
        os.link(partial, target)
    except FileExistsError:
        raise
    except OSError:  # no hard links on this file system (exFAT, some network shares): look, then replace
        if os.path.lexists(target):
            raise FileExistsError(f"{target} exists") from None
        os.replace(partial, target)
