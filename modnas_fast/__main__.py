"""`python -m modnas_fast` is the `modnas-fast` command."""

import sys

from modnas_fast.cli import main

sys.exit(main())
