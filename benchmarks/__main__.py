"""One of these modules as a program, with errors told in a line: python -m benchmarks bench_train --repeats 3"""

from __future__ import annotations

import runpy
import sys

from modnas_fast.errors import ModnasError


def main() -> None:
    name = sys.argv[1]
    sys.argv = sys.argv[1:]
    try:
        runpy.run_module(f"benchmarks.{name}", run_name="__main__", alter_sys=True)
    except ModnasError as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
