"""What scripts of one step that run at once need to ask Dagster's storage for only once.

Dagster's session looks up the provenance of every asset of the step: two queries each, some
milliseconds of this process. Fifty scripts of a step with fifty assets make that 5,000 queries.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

from dagster import AssetExecutionContext, AssetKey, DataProvenance, OpExecutionContext

from .internals import ExecutionContext


@contextmanager
def shared(context: ExecutionContext) -> Iterator[ExecutionContext]:
    """The context for one script. Those that overlap share what the first of them was told.

    So it is as of when the first began; a script that begins when no other runs asks anew.
    """
    # An op has no assets, and a context of a step that is invoked directly no storage.
    if type(context) is not AssetExecutionContext:
        yield context
        return
    step = context.op_execution_context
    with _lock:
        known = _of_steps.setdefault(step, _Known())
        known.users += 1
    try:
        yield _SharedContext(context, known)
    finally:
        with _lock:
            known.users -= 1
            if not known.users:
                del _of_steps[step]


class _Known:
    def __init__(self) -> None:
        self.users = 0
        self.lock = threading.Lock()
        self.provenance: dict[AssetKey, DataProvenance | None] = {}


class _SharedContext(AssetExecutionContext):
    def __init__(self, context: AssetExecutionContext, known: _Known) -> None:
        super().__init__(context.op_execution_context)
        self._known = known

    def get_asset_provenance(self, asset_key: AssetKey) -> DataProvenance | None:
        with self._known.lock:
            if asset_key not in self._known.provenance:
                self._known.provenance[asset_key] = super().get_asset_provenance(asset_key)
            return self._known.provenance[asset_key]


_lock = threading.Lock()
_of_steps: WeakKeyDictionary[OpExecutionContext, _Known] = WeakKeyDictionary()
