"""What our context is told by Dagster's own host: that which a stock context is told."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from tests.interop import scripts
from tests.interop.scripts import write_script
from tests.interop.stock_host import Step, Via, ask_both, run_both, run_ours

DAYS = dg.DailyPartitionsDefinition(start_date="2026-01-01")
LETTERS = dg.StaticPartitionsDefinition(["a", "b", "c/d"])
SCOPES: dict[str, dict[str, Any]] = {
    "one asset": {"extras": {"day": "2026-01-01", "nested": {"a": [1, None]}}},
    "several assets": {"keys": ("b/x", "a", "c\\/d"), "code_version": "7"},
    "partition": {"partitions": LETTERS, "partition_key": "c/d"},
    "partition by time": {"partitions": DAYS, "partition_key": "2026-01-02"},
    "partition of two dimensions": {
        "partitions": dg.MultiPartitionsDefinition({"day": DAYS, "letter": LETTERS}),
        "partition_key": dg.MultiPartitionKey({"day": "2026-01-02", "letter": "a"}),
    },
    "range of partitions": {
        "partitions": DAYS,
        "tags": {
            "dagster/asset_partition_range_start": "2026-01-02",
            "dagster/asset_partition_range_end": "2026-01-04",
        },
    },
}


@pytest.mark.parametrize("scope", SCOPES)
def test_the_context_says_what_a_stock_context_says(scope: str, tmp_path: Path) -> None:
    stock, ours = ask_both(tmp_path, scripts.ASK, **SCOPES[scope])
    assert ours == stock
    assert ours["get"] is True
    assert ours["no extra"] == "refused"
    match scope:
        case "one asset":
            assert (ours["asset_key"], ours["asset_keys"]) == ("orders", ["orders"])
            assert ours["get_extra"] == "2026-01-01"
            assert ours["partition_key"] == "refused"
        case "several assets":
            assert ours["asset_key"] == "refused"
            assert ours["asset_keys"] == ["a", "b/x", "c\\/d"]
            assert ours["code_version_by_asset_key"]["c\\/d"] == "7"
        case "partition":
            assert ours["partition_key_range"] == {"start": "c/d", "end": "c/d"}
            assert ours["partition_time_window"] is None
        case "partition by time":
            assert ours["partition_time_window"] == {
                "start": "2026-01-02T00:00:00+00:00",
                "end": "2026-01-03T00:00:00+00:00",
            }
        case "partition of two dimensions":
            assert ours["partition_key"] == "2026-01-02|a"


def test_provenance_comes_from_the_run_before(tmp_path: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        first, _ = ask_both(tmp_path, scripts.ASK, code_version="1", instance=instance)
        stock, ours = ask_both(tmp_path, scripts.ASK, code_version="2", instance=instance)
    assert first["provenance"] is None
    assert ours == stock
    assert ours["provenance"] == {
        "code_version": "1",
        "input_data_versions": {},
        "is_user_provided": False,
    }
    assert ours["code_version"] == "2"


def test_the_number_of_the_retry(tmp_path: Path) -> None:
    body = """
with open_pipes() as pipes:
    pipes.log.info(f"try {pipes.retry_number} of {pipes.job_name}")
    if not pipes.retry_number:
        raise ValueError("at first")
    pipes.report_asset_materialization({"try": pipes.retry_number})
"""
    stock, ours = run_both(tmp_path, body, retries=1)
    for run in (stock, ours):
        assert run.ok
        assert run.materializations[0].metadata == {"try": dg.MetadataValue.int(1)}
    assert ours.logs == stock.logs
    assert [message.split(" of ")[0] for _, message in ours.logs] == ["try 0", "try 1"]


@pytest.mark.parametrize("keys", [("a",), ("a", "b")])
def test_what_is_refused_is_what_a_stock_context_refuses(
    keys: tuple[str, ...], tmp_path: Path
) -> None:
    step = Step(tmp_path, keys=keys, checks={"a": ["c"]})
    paths = [
        write_script(tmp_path, "dagster_pipes", scripts.CALLS),
        write_script(tmp_path, "asyncpipes", scripts.CALLS),
    ]
    (stock,), (ours,) = step.run(*paths).custom_messages
    assert ours == stock
    assert True in ours
    assert False in ours


@pytest.mark.parametrize("via", ["arguments", "mapping"])
def test_the_bootstrap_comes_another_way(via: Via, tmp_path: Path) -> None:
    loading = "" if via == "arguments" else "params_loader=json.load(sys.stdin)"
    body = f"""
import json, sys
with open_pipes({loading}) as pipes:
    pipes.report_custom_message(pipes.get_extra("day"))
    pipes.report_asset_materialization()
"""
    run = run_ours(tmp_path, body, via=via, extras={"day": "2026-01-01"})
    assert run.ok
    assert run.custom_messages == [["2026-01-01"]]
    assert len(run.materializations) == 1


def test_a_large_context(tmp_path: Path) -> None:
    body = """
import hashlib
with open_pipes() as pipes:
    text = pipes.get_extra("large")
    pipes.report_custom_message([len(text), hashlib.sha256(text.encode()).hexdigest()])
"""
    text = "ä€𝄞 " * 100_000
    stock, ours = ask_both(tmp_path, body, extras={"large": text})
    assert ours == stock == [len(text), hashlib.sha256(text.encode()).hexdigest()]
