"""Call one function in this process: ``python -m benchmarks.call MODULE:FUNCTION SIZE``.

It prints what the function returns, as the last line of standard output. When messages
were lost it says so and exits with :data:`LOST`.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module

from .message import LostMessageError

#: The exit code for lost messages; 1 is any other exception, 2 a wrong command line.
LOST = 3


def main() -> int:
    """Call the function that the command line names."""
    target, size = sys.argv[1:]
    module, _, function = target.partition(":")
    try:
        values = getattr(import_module(module), function)(int(size))
    except LostMessageError as error:
        print(f"{target}: {error}", file=sys.stderr)
        return LOST
    print(json.dumps(values), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
