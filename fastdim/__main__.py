"""`python -m fastdim`: the same as the command `fastdim`."""

from __future__ import annotations

import sys

from fastdim.cli import main

if __name__ == "__main__":
    sys.exit(main())
