"""``python -m benchmarks``: asyncpipes beside dagster_pipes, in one run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .adapter import DAGSTER, PARTS, DagsterReport, Work, measure_dagster
from .cases import CASES, Case, Sizes
from .loss import LOSS, LossReport, measure_loss
from .runner import BenchmarkError, Report, run_round
from .table import machine, print_report

_DESCRIPTION = """\
Measure asyncpipes beside dagster_pipes on this machine.

Every subject runs in a fresh process, all of them in turn, for some rounds; the table
shows the medians, ours divided by stock, and the share of the floor, which is the
least that the work can cost with orjson in Python. Targets stand beside the ratios;
nothing passes or fails by them. Every message is counted, and a subject of ours that
loses one ends the run with an error.
"""

_EPILOG = """\
The clocks:
  emit     first report, in the script, to the last line complete in the file, as
           another process sees it; the lines are parsed again and counted
  host     reading a file that is written already, to the subscriber's last call
  run      launching the script to having the outcome
  stall    how much longer than 1 ms a 1 ms sleep takes while 1,000 reports are made
  import   the import statement, inside a fresh interpreter, with its bytecode there
  latency  the report, in the script, to the subscriber's call, in the host
  view     launching the script to the view's last line on a pseudo-terminal

Compare numbers of one run only: they depend on the machine and on what else it does.
The stock host may read half a line; its reader dies of that, and the rest is lost. The
table then says how much, and the run still counts, though it had less to do.

How often that happens is what `loss` counts, which is named by itself: messages of some
sizes under Dagster's own client, by our script and by one of dagster_pipes in turn, until
the latter has had five lossy runs. It prints Markdown, and ends with 1 if ours lost any, or
if --max-rounds came first, for then ours may have had luck. With --quick it may.

`dagster`, named by itself or with some of its parts behind it, is about our clients in
Dagster. It prints Markdown as well, and ends with 1 if they lost any message:
  loss     500 messages of 20 KB by our script and by one of dagster_pipes, under each of
           our clients and under Dagster's own; what the client hands over is counted
  many     50 short scripts awaited at once in one step, from the start of the gather to
           its end, and the same ones as bare asyncio subprocesses in such a step, which
           write the same messages to files, for nobody. Beside it how late a 1 ms sleep
           ends on the same loop. They load parts of one asset, or an asset each, with the
           event log in memory, or in SQLite, where each line waits for the disk
  backlog  100,000 log lines, then a result, with the event log in SQLite: from its
           report, in the script, to the asset
Ratios are of medians; what is in brackets are the extremes, of a ratio those in a round.

examples:
  python -m benchmarks                        everything: some ten minutes
  python -m benchmarks emit host --rounds 3
  python -m benchmarks loss --rounds 20       four minutes or so
  python -m benchmarks dagster loss --rounds 20
  python -m benchmarks --quick                does it all run? The numbers mean nothing
  python -m benchmarks --json results.json    all rounds, written after each of them
"""


def main(arguments: Sequence[str] | None = None, cases: Sequence[Case] = CASES) -> int:
    """Measure, print, and return the exit code.

    It is 1 if a subject failed or lost messages, or if too few runs were lossy to tell.
    """
    options = _parser(cases).parse_args(arguments)
    if options.names == [LOSS]:
        return _loss(options)
    if options.names[:1] == [DAGSTER] and set(options.names[1:]) <= set(PARTS):
        return _dagster(options)
    names = set(options.names)
    unknown = names - {case.name for case in cases}
    if unknown:
        print(
            f"no such benchmark, or not beside others: {', '.join(sorted(unknown))}; see --help",
            file=sys.stderr,
        )
        return 2
    chosen = [case for case in cases if not names or case.name in names]
    rounds = options.rounds or (1 if options.quick else 5)
    messages = options.messages or (2_000 if options.quick else 200_000)
    report = Report(machine(), _sizes(messages, quick=options.quick))
    try:
        for number in range(1, rounds + 1):
            for measured in run_round(number, chosen, report.sizes):
                report.measurements.append(measured)
                _show_progress(f"round {number} of {rounds}: {measured.case}, {measured.subject}")
            if options.json:
                Path(options.json).write_text(report.as_json(chosen))
    except BenchmarkError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    _show_progress("")
    print_report(report, chosen, rounds)
    return 0


def _loss(options: argparse.Namespace) -> int:
    report = LossReport(machine(), divisor=100 if options.quick else 1)
    rounds = options.rounds or (1 if options.quick else 5)
    most = max(rounds, options.max_rounds or (rounds if options.quick else 50))

    def done(number: int) -> None:
        lossy = len(report.lossy("stock"))
        _show_progress(f"round {number} of {rounds} to {most}: {lossy} lossy runs of stock's")
        if options.json:
            Path(options.json).write_text(report.as_json())

    try:
        measure_loss(report, rounds=rounds, most_rounds=most, done=done)
    except BenchmarkError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    _show_progress("")
    print(report.text())
    too_little = "" if options.quick else report.shows_too_little()
    if too_little:
        print(f"benchmarks: {too_little}", file=sys.stderr)
    return 1 if too_little or report.lossy("ours") else 0


def _dagster(options: argparse.Namespace) -> int:
    work = Work(divisor=100, scripts=3, lines=200) if options.quick else Work()
    report = DagsterReport(machine(), work)
    rounds = options.rounds or (1 if options.quick else 5)

    def done(number: int, part: str) -> None:
        _show_progress(f"round {number} of {rounds}: {part}")
        if options.json:
            Path(options.json).write_text(report.as_json())

    try:
        measure_dagster(report, parts=options.names[1:] or PARTS, rounds=rounds, done=done)
    except BenchmarkError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    _show_progress("")
    print(report.text())
    return 1 if report.lossy else 0


def _sizes(messages: int, *, quick: bool) -> Sizes:
    return Sizes(
        messages=messages,
        host_messages=5 * messages,
        latency_messages=50 if quick else 1_000,
        bursts=3 if quick else 50,
        imports=1 if quick else 5,
    )


def _show_progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{text:<72}\r", end="", file=sys.stderr, flush=True)


def _parser(cases: Sequence[Case]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"which to run, of {', '.join(case.name for case in cases)}; all of these by default;"
        f" or {LOSS} alone; or {DAGSTER}, alone or with any of {', '.join(PARTS)}",
    )
    parser.add_argument("--rounds", type=_count, metavar="N", help="default 5")
    parser.add_argument(
        "--max-rounds",
        type=_count,
        metavar="N",
        help=f"where {LOSS} stops, and fails, if the stock script has had less than five lossy"
        " runs (default 50)",
    )
    parser.add_argument(
        "--messages",
        type=_count,
        metavar="N",
        help="messages for emit and run; host does 5 times as many, and some subjects"
        " a quarter, to compare rates (default 200,000)",
    )
    parser.add_argument("--json", metavar="FILE", help="write every round's numbers there")
    parser.add_argument("--quick", action="store_true", help="one round of next to nothing")
    return parser


def _count(text: str) -> int:
    number = int(text.replace(",", "").replace("_", ""))
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 up")
    return number


if __name__ == "__main__":
    sys.exit(main())
