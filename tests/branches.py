"""Branch coverage by itself: ``python -m tests.branches``, after ``coverage combine``.

The ``fail_under`` of coverage judges lines and branches together, and most of what it counts
are lines: with all lines run, two branches of five may be missing unseen. This command prints
the share of the branches, and ends with 1 if that is too low.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]

#: Percent of all branches that the tests must take.
LEAST = 95.0


def counted(root: Path) -> tuple[int, int]:
    """How many branches were taken, and how many there are, by the data in ``root``."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "coverage.json")
        command = ["-m", "coverage", "json", "--quiet", "--fail-under=0", "-o", str(path)]
        subprocess.run([sys.executable, *command], cwd=root, check=True)
        totals = json.loads(path.read_text())["totals"]
    return totals.get("covered_branches", 0), totals.get("num_branches", 0)


def main(root: Path = ROOT) -> int:
    """Print the share of the branches that were taken; 1 if too few were, or none measured."""
    taken, branches = counted(root)
    if not branches:
        print("no branches were measured: coverage needs branch = true")
        return 1
    share = 100 * taken / branches
    print(f"branch coverage alone: {share:.2f} %, {taken:,} of {branches:,} branches")
    if share < LEAST:
        print(f"that is less than {LEAST:.0f} %: the arrows above (12->15) are what is missing")
    return int(share < LEAST)


if __name__ == "__main__":
    sys.exit(main())
