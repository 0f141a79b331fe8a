"""Dagster's own home, and its own warnings, as for the interop tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.interop.conftest import DAGSTERS_OWN, _dagster_home

__all__ = ["_dagster_home"]

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            for warning in DAGSTERS_OWN:
                item.add_marker(pytest.mark.filterwarnings(warning))
            item.add_marker(pytest.mark.host)
