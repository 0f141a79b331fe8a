"""examples/dagster, as a user would run it: in a folder of their own, with Dagster's command."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
LINE = "processing total 20 orders"

pytestmark = pytest.mark.host


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "DAGSTER_HOME": str(folder),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def materialize(folder: Path, *arguments: str) -> str:
    """What Dagster's command says of it; the asset is in ``dagster_code.py`` of the folder."""
    command = ["-m", "dagster", "asset", "materialize", "-f", "dagster_code.py", "--select"]
    (folder / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    done = python(folder, *command, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_tutorial_in_a_copy_of_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "dagster"
    shutil.copytree(EXAMPLES / "dagster", folder)
    told = materialize(folder, "orders")
    assert re.search(f" INFO - .* - orders - {LINE}$", told, re.MULTILINE), told
    assert "ASSET_MATERIALIZATION - Materialized value orders." in told
    assert "Asset check 'no_empty_order_check' on 'orders' passed." in told
    assert "RUN_SUCCESS" in told


def test_one_month_of_flights_as_a_partition(tmp_path: Path) -> None:
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    told = materialize(tmp_path / "examples" / "dagster", "flights", "--partition", "2013-02")
    for level, line in (
        ("DEBUG", "24951 flights on 28 days"),
        ("WARNING", "1261 flights have no departure time"),
        ("INFO", "24951 flights materialized"),
    ):
        assert re.search(f" {level} - .* - flights - flights/2013-02: {line}$", told, re.MULTILINE)
    assert "Materialized value flights." in told
    assert "Asset check 'departure_times_complete' on 'flights' did not pass." in told
    for check in ("every_day_present", "distances_positive", "no_duplicate_flights"):
        assert f"Asset check '{check}' on 'flights' passed." in told
    assert "RUN_SUCCESS" in told


def test_the_script_runs_by_hand(tmp_path: Path) -> None:
    done = python(tmp_path, str(EXAMPLES / "dagster" / "external_code.py"))
    assert (done.returncode, done.stdout) == (0, f"{LINE}\n"), done.stderr


def test_a_port_that_is_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = python(tmp_path, str(EXAMPLES / "dagster" / "serve.py"), "--port", port)
    assert done.returncode == 1
    assert f"port {port} cannot be used: Address already in use" in done.stderr
    assert "--port" in done.stderr
