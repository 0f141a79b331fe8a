"""A run that has ended well: what the script reported, in Dagster's terms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dagster import AssetCheckResult, MaterializeResult, PipesSession

from ..host.result import RunResult
from .internals import PipesClientCompletedInvocation


class PipesInvocation(PipesClientCompletedInvocation):
    """What ``run()`` of the clients returns: ``PipesClientCompletedInvocation``, and more.

    It makes no materialization that the script did not report, unless asked to: by default
    ``implicit_materializations`` is False here.

    Attributes:
        result: the :class:`~asyncpipes.RunResult`, with the outcome and the counts. The
            reported results are not in it, but in the methods' answers.
    """

    def __init__(self, session: PipesSession, result: RunResult) -> None:
        super().__init__(session)
        self.result = result
        self._is_unseen = True

    @property
    def is_unseen(self) -> bool:
        """Whether nobody has asked for its results.

        Then they are put into the event log if the step fails, since it never got them.
        """
        return self._is_unseen

    def get_results(
        self, *, implicit_materializations: bool = False
    ) -> Sequence[MaterializeResult[Any] | AssetCheckResult]:
        """All that was reported, in order.

        Args:
            implicit_materializations: add a ``MaterializeResult`` for each selected asset
                that the script reported none of.
        """
        self._is_unseen = False
        return super().get_results(implicit_materializations=implicit_materializations)

    def get_materialize_result(
        self, *, implicit_materialization: bool = False
    ) -> MaterializeResult[Any]:
        """The one materialization, with the checks in it.

        Args:
            implicit_materialization: make one if the script reported none.

        Raises:
            dagster.DagsterError: there is none, or more than one.
        """
        self._is_unseen = False
        return super().get_materialize_result(implicit_materialization=implicit_materialization)

    def get_asset_check_result(self) -> AssetCheckResult:
        """The one check.

        Raises:
            dagster.DagsterError: there is none, or more than one, or a materialization.
        """
        self._is_unseen = False
        return super().get_asset_check_result()
