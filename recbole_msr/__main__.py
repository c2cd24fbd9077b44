"""`python -m recbole_msr` is the command `recbole-msr`."""

from __future__ import annotations

import sys

from recbole_msr.cli import main

if __name__ == "__main__":
    sys.exit(main())
