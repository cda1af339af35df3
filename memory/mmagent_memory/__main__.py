"""`python -m mmagent_memory verify|repair FOLDER`: see `checking`."""

from __future__ import annotations

import argparse
import json
import sys

from mmagent_memory.checking import repair, verify
from mmagent_memory.errors import MemoryStoreError, MemoryUsageError


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 if the store is whole now, 1 if not, 2 if there is none."""
    parser = argparse.ArgumentParser(prog="python -m mmagent_memory", description=__doc__)
    parser.add_argument("command", choices=("verify", "repair"))
    parser.add_argument("folder")
    options = parser.parse_args(arguments)
    try:
        report = (verify if options.command == "verify" else repair)(options.folder)
    except MemoryStoreError as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, MemoryUsageError) else 1
    print(json.dumps(report.as_dict(), ensure_ascii=False, indent=2))
    return 0 if report.whole or options.command == "repair" else 1


if __name__ == "__main__":
    sys.exit(main())
