"""What importing the external side loads, beside what a script has loaded anyway."""

from __future__ import annotations

from tests.support import run_script

#: What such a script loads in any case: its loop, and our one dependency.
BASE = "import asyncio, dataclasses, logging, orjson"

#: Slow to load, and needed by a host or by a script that asks for something special.
SLOW = (
    "argparse ipaddress pathlib shutil socketserver tempfile typing_extensions urllib.parse".split()
)


def loaded(statement: str) -> set[str]:
    done = run_script(f"{statement}\nimport sys\nprint(*sys.modules)", {})
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_nothing_slow_is_loaded_beyond_asyncio_and_orjson() -> None:
    ours = loaded("from asyncpipes import open_pipes") - loaded(BASE)
    assert "asyncpipes.external.context" in ours
    assert ours.isdisjoint(SLOW)
    assert ours.isdisjoint({"asyncpipes.channels.watching", "asyncpipes.external.testing"})
    assert not {name for name in ours if name.startswith("asyncpipes.host")}
