"""The host inside Dagster assets (extra ``dagster``).

- :class:`AsyncPipesSubprocessClient`, a resource for async assets: results stream in
  while the script runs, several scripts at once, and red when something was lost;
- :class:`PipesSubprocessClient`, the same for sync assets, in the place of Dagster's own;
- :class:`PipesChannelMessageReader`, any channel of ours as a message reader for Dagster's
  own clients.
"""

from __future__ import annotations

from .client import AsyncPipesSubprocessClient, PipesSubprocessClient
from .failures import PipesFailure
from .invocation import PipesInvocation
from .message_readers import PipesChannelMessageReader

__all__ = [
    "AsyncPipesSubprocessClient",
    "PipesChannelMessageReader",
    "PipesFailure",
    "PipesInvocation",
    "PipesSubprocessClient",
]
