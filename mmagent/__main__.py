"""`python -m mmagent`: the command line."""

from __future__ import annotations

from mmagent.cli import main

if __name__ == "__main__":
    main()
