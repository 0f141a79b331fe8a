"""Dagster's own home, and its own warnings: everywhere else a warning is an error."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent

# What Dagster's client calls in Dagster's own context and reader.
DAGSTERS_OWN = (
    r"ignore:AssetExecutionContext\.run_id is deprecated:DeprecationWarning",
    r"ignore:Function `PipesMessageReader\.expected_writer_count` is currently in preview",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            for warning in DAGSTERS_OWN:
                item.add_marker(pytest.mark.filterwarnings(warning))
            item.add_marker(pytest.mark.host)


@pytest.fixture(scope="session", autouse=True)
def _dagster_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is read from, or written to, the home of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(tmp_path_factory.mktemp("dagster-home")))
        yield
