"""The same with ``dagster_pipes``, which writes each message when it is reported."""

from __future__ import annotations

import sys

from dagster_pipes import open_dagster_pipes

from benchmarks.patterns import pattern

name, _, divisor = sys.argv[1:]
with open_dagster_pipes() as pipes:
    for payload in pattern(name).payloads(int(divisor)):
        pipes.report_custom_message(payload)
