"""The long proofs, one after the other, and their figures: ``make soak``.

Each step runs in a process group of its own, which is gone when the step is over. Thirty
minutes at most with the defaults; a step that passes its share has failed, but for the tests
that are repeated: of these it does as many rounds as the others leave time for. What is printed
is Markdown, for the README as it stands.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.loss import file_system
from benchmarks.table import machine, machine_line

ROOT = Path(__file__).parents[1]

#: What is repeated: tests that depend on the moment at which something happens.
REPEATED = (
    "tests/faults",
    "tests/channels",
    "tests/external/test_closing.py",
    "tests/external/test_forks.py",
    "tests/external/test_heartbeat.py",
    "tests/external/test_leaving.py",
    "tests/external/test_many_writers.py",
    "tests/external/test_outbox.py",
    "tests/external/test_processes.py",
    "tests/host/test_draining.py",
    "tests/host/test_held_up.py",
    "tests/host/test_liveness.py",
    "tests/host/test_run.py",
    "tests/host/test_shutdown.py",
    "tests/host/test_stopping.py",
)

#: What runs with loops and worker threads that come late; see ``tests.late``.
LATE = (
    "tests/channels",
    "tests/cli",
    "tests/dagster",
    "tests/external",
    "tests/faults",
    "tests/host",
    "tests/interop",
)

_LOSS = "python -m benchmarks loss"
_EXAMPLES = re.compile(r"- ([\d,]+) passing(?: examples)?, ([\d,]+) failing")
_CLOSING = re.compile(r"^(?:=+ )?((?:\d+ \w+(?:, )?)+) in ", re.MULTILINE)


@dataclass(frozen=True)
class Figure:
    """A row of the table: what was shown, how often, and how often it was not so."""

    what: str
    extent: str
    failures: str
    failed: bool


@dataclass(frozen=True)
class Done:
    """How a step ended."""

    output: str
    code: int | None

    def counts(self) -> dict[str, int]:
        """pytest's closing line: how many tests passed, failed and so on."""
        found = _CLOSING.findall(self.output)
        words = found[-1].split(", ") if found else []
        return {name: int(number) for number, _, name in (word.partition(" ") for word in words)}

    @property
    def failures(self) -> int:
        """Tests that failed; a run that did not come to its end counts as one more."""
        counts = self.counts()
        failed = counts.get("failed", 0) + counts.get("error", 0) + counts.get("errors", 0)
        return failed or int(self.code != 0)


def run(arguments: Sequence[str], seconds: float) -> Done:
    """Run ``python ARGUMENTS`` here; show what it prints, unless all went well."""
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        code: int | None = None
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            print(f"not done within {seconds:.0f} s: {' '.join(arguments)}", file=sys.stderr)
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # all of it is gone, as it should be
            process.wait()
        output.seek(0)
        text = output.read()
    if code != 0:
        print(text, file=sys.stderr)
    return Done(text, code)


def properties(options: argparse.Namespace) -> Figure:
    os.environ["SOAK_EXAMPLES"] = str(options.examples)
    command = ["-m", "pytest", "-q", "--hypothesis-profile=soak", "--hypothesis-show-statistics"]
    command += ["-n", "auto"]
    done = run([*command, "tests/protocol"], options.minutes * 60 / 4)
    found = _EXAMPLES.findall(done.output)
    passed = sum(int(number.replace(",", "")) for number, _ in found)
    return Figure(
        "property tests of framing, decoding, bootstrap, metadata, exceptions, context",
        f"{passed:,} random examples of {len(found)} properties",
        str(done.failures),
        bool(done.failures) or not passed,
    )


def counted(what: str, done: Done) -> Figure:
    """Tests that ran once."""
    passed = done.counts().get("passed", 0)
    failures = done.failures
    return Figure(what, f"{passed:,} tests", str(failures), bool(failures) or not passed)


def long_tests(options: argparse.Namespace) -> Figure:
    command = ["-m", "pytest", "-q", "-m", "soak and not mutant", "tests"]
    what = "500 x 100 KB and 5 x 1 MB to our host, 20 times (`-m soak`)"
    return counted(what, run(command, options.minutes * 60 / 12))


def loss(options: argparse.Namespace) -> Figure:
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder, "loss.json")
        command = ["-m", "benchmarks", "loss", "--rounds", str(options.loss_rounds)]
        done = run([*command, "--json", str(results)], options.minutes * 60 / 4)
        runs = json.loads(results.read_text())["runs"] if results.exists() else []
    said: dict[str, str] = {}
    for subject in ("ours", "stock"):
        of_it = [each for each in runs if each["subject"] == subject]
        lossy = sum(1 for each in of_it if each["lost"] or each["failure"])
        lost = sum(each["lost"] for each in of_it)
        said[subject] = f"{lossy} lossy runs, {lost:,} messages lost"
    rounds = len({each["round"] for each in runs})
    messages = sum(each["messages"] for each in runs if each["subject"] == "ours")
    count = sum(1 for each in runs if each["subject"] == "ours")
    return Figure(
        f"our script under Dagster's own client (`{_LOSS} --rounds {options.loss_rounds}`)",
        f"{rounds} rounds, {count} runs, {messages:,} messages",
        f"{said['ours']} (`dagster_pipes` beside it: {said['stock']})",
        done.code != 0 or not count,
    )


def late(options: argparse.Namespace) -> Figure:
    # Not -q, which leaves out the seed.
    command = ["-m", "pytest", "-p", "tests.late", "-p", "no:cacheprovider"]
    command += ["-m", "not mutant and not ui and not soak", "-n", "auto", "--dist", "loadfile"]
    what = "the tests with every loop and worker thread late now and then (`-p tests.late`)"
    return counted(what, run([*command, *LATE], options.minutes * 60 / 3))


def repeated(options: argparse.Namespace) -> Figure:
    rounds = tests = failures = 0
    longest = 0.0
    # Wrong versions of ours prove the tests, which they have done in `make test`.
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not mutant"]
    command += ["-n", "auto", "--dist", "loadfile"]  # beside others, moments differ all the more
    while rounds < options.rounds:
        started = time.monotonic()
        left = options.deadline - started
        if left < 1.5 * longest:
            break  # a round that is somewhat slower than those before it would be cut off
        done = run([*command, *REPEATED], left)
        longest = max(longest, time.monotonic() - started)
        rounds += 1
        tests += sum(done.counts().values()) - done.counts().get("deselected", 0)
        failures += done.failures
    return Figure(
        "tests of faults, endings, signals and channels, again and again",
        f"{rounds} rounds, {tests:,} tests",
        str(failures),
        bool(failures) or not rounds,
    )


STEPS: dict[str, Callable[[argparse.Namespace], Figure]] = {
    "properties": properties,
    "long": long_tests,
    "loss": loss,
    "late": late,
    "repeated": repeated,
}


HEADING = ("| what | how often | failures |", "|---|---|---|")


def table(figures: Sequence[Figure]) -> str:
    """The figures, in Markdown."""
    lines = [*HEADING]
    lines += [f"| {each.what} | {each.extent} | {each.failures} |" for each in figures]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the steps and print the table; 1 if one of them failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("steps", nargs="*", metavar="STEP", help=f"of {', '.join(STEPS)}; or all")
    parser.add_argument("--examples", type=int, default=2_000, help="for each property")
    parser.add_argument(
        "--rounds", type=int, default=5, help="of the tests that are repeated, at most"
    )
    parser.add_argument("--loss-rounds", type=int, default=5, help="at least; as loss counts them")
    parser.add_argument("--minutes", type=float, default=30, help="all steps together, at most")
    options = parser.parse_args(arguments)
    unknown = set(options.steps) - set(STEPS)
    if unknown:
        parser.error(f"no such step: {', '.join(sorted(unknown))}")
    started = time.monotonic()
    options.deadline = started + options.minutes * 60
    figures = []
    for name in options.steps or STEPS:
        print(f"{name} ...", file=sys.stderr, flush=True)
        figures.append(STEPS[name](options))
    minutes = (time.monotonic() - started) / 60
    files = file_system(tempfile.gettempdir())
    print(f"{machine_line(machine())}; files on {files}; {minutes:.0f} minutes\n")
    print(table(figures))
    return 1 if any(each.failed for each in figures) else 0


if __name__ == "__main__":
    sys.exit(main())
