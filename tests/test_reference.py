"""The API reference is built without a warning, and has every public name."""

from __future__ import annotations

import html
import importlib
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "docs" / "reference.py"
PUBLIC = ("asyncpipes", "asyncpipes.channels", "asyncpipes.dagster")

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The pages by the name of their module, as `make docs` builds them."""
    output = tmp_path_factory.mktemp("reference")
    done = subprocess.run(
        [sys.executable, SCRIPT, output], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout == f"the reference is in {output / 'index.html'}\n"
    assert (output / "index.html").exists()
    return {
        ".".join(path.relative_to(output).with_suffix("").parts): path.read_text()
        for path in output.rglob("*.html")
    }


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_has_its_entry(pages: dict[str, str], module: str) -> None:
    entries = set(re.findall(r'<section id="([^"]+)">', pages[module]))
    names = importlib.import_module(module).__all__
    assert names
    assert set(names) <= entries


def test_what_the_docstrings_mean_is_understood(pages: dict[str, str]) -> None:
    for module, page in pages.items():
        shown = html.unescape(page.partition("<main")[2])
        for raw in ("::</p>", "<p>=====", ":class:`", ":func:`", ":meth:`", ":exc:`"):
            assert raw not in shown, f"{module}: {raw}"
    assert "<td>aware datetime</td>" in pages["asyncpipes.protocol.metadata"]


def test_pages_load_nothing_from_elsewhere(pages: dict[str, str]) -> None:
    for module, page in pages.items():
        loaded = re.findall(r"""(?:src=|<link[^>]*href=|url\()["']?(\w+:|//)[^"')>]*""", page)
        assert set(loaded) <= {"data:"}, module


def test_a_warning_ends_the_build(tmp_path: Path) -> None:
    code = f"""
        import runpy, sys, types, warnings
        import pdoc
        pdoc.pdoc = lambda *modules, output_directory: warnings.warn("a link leads nowhere")
        runpy.run_path({str(SCRIPT)!r}, run_name="__main__")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True, text=True, timeout=60, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1
    assert "UserWarning: a link leads nowhere" in done.stderr


def test_a_public_name_without_a_docstring_ends_the_build() -> None:
    code = f"""
        import runpy
        import asyncpipes
        asyncpipes.run.__doc__ = None
        runpy.run_path({str(SCRIPT)!r}, run_name="__main__")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True, text=True, timeout=60, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 1
    assert "ValueError: without a docstring: asyncpipes.run" in done.stderr


def test_make_knows_it() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert "docs: $(dev)\n\t@$(python) docs/reference.py" in makefile
    assert "make docs    the API reference" in makefile
