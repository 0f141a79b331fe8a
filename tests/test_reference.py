"""The API reference is built without a warning, and has every public name."""

from __future__ import annotations

import html
import importlib
import inspect
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from asyncpipes import EventIterator, PipesProcess, Subscription
from tests.support import PATIENCE

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "docs" / "reference.py"
PUBLIC = ("asyncpipes", "asyncpipes.channels", "asyncpipes.dagster")

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The pages by the name of their module, as `make docs` builds them."""
    output = tmp_path_factory.mktemp("reference")
    done = subprocess.run(
        [sys.executable, SCRIPT, output], capture_output=True, text=True, timeout=PATIENCE
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


def named(annotation: object) -> set[type]:
    """The classes of ours in an annotation, however deep."""
    if isinstance(annotation, type) and annotation.__module__.startswith("asyncpipes."):
        return {annotation}
    parts = annotation if isinstance(annotation, list) else get_args(annotation)
    return set().union(*map(named, parts))


def callables(value: Any) -> Iterator[Any]:
    """A function, or the public ones of a class, and what hints its own fields have."""
    yield value
    for name, each in vars(value).items() if isinstance(value, type) else ():
        if not name.startswith("_"):
            function = getattr(each, "fget", getattr(each, "__func__", each))
            if inspect.isfunction(function):
                yield function


def reachable() -> set[type]:
    """Every class of ours that users get to hold, or have to give, by way of public names."""
    modules = map(importlib.import_module, PUBLIC)
    names = [getattr(module, name) for module in modules for name in module.__all__]
    todo = [value for value in names if not isinstance(value, str)]
    found: set[type] = set()
    while todo:
        for each in callables(todo.pop()):
            hints = get_type_hints(each)
            public = (hint for name, hint in hints.items() if not name.startswith("_"))
            new = set().union(*map(named, public)) - found
            found |= new
            todo += new
    return found


def test_every_class_that_users_hold_or_give_has_its_entry(pages: dict[str, str]) -> None:
    entries = {
        entry for page in pages.values() for entry in re.findall(r'<section id="(\w+)"', page)
    }
    assert len(reachable()) > 30
    assert {kind.__name__ for kind in reachable()} - entries == set()


def test_classes_are_found_in_what_annotations_hold() -> None:
    one, two, three = (type(name, (), {"__module__": "asyncpipes.x"}) for name in "abc")
    assert named(Callable[[list[one]], dict[str, two] | None] | three) == {one, two, three}  # type: ignore[valid-type]  # made here
    assert named(int) == named(Any) == set()
    assert {PipesProcess, Subscription, EventIterator} <= reachable()


def test_what_users_hold_is_told_without_the_hosts_own_part(pages: dict[str, str]) -> None:
    page = pages["asyncpipes"]
    members = set(re.findall(r'<div id="((?:PipesProcess|Subscription|EventIterator)\.\w+)"', page))
    assert {member for member in members if not member.endswith(".__init__")} == {
        f"{kind}.{name}"
        for kind, names in {
            "PipesProcess": "pid returncode wait terminate send_signal kill"
            " group_is_alive survivors",
            "Subscription": "name delivered dropped undelivered error detached"
            " depth is_full detach",
            "EventIterator": "aclose",
        }.items()
        for name in names.split()
    }


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
        capture_output=True, text=True, timeout=PATIENCE, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1
    assert "UserWarning: a link leads nowhere" in done.stderr


@pytest.mark.parametrize("name", ["run", "PipesSession.stop", "PipesProcess.pid", "Event"])
def test_a_public_name_without_a_docstring_ends_the_build(name: str) -> None:
    code = f"""
        import runpy
        import asyncpipes
        asyncpipes.{name}.__doc__ = None
        runpy.run_path({str(SCRIPT)!r}, run_name="__main__")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True, text=True, timeout=PATIENCE, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 1
    assert f"ValueError: without a docstring: asyncpipes.{name}\n" in done.stderr


def test_make_knows_it() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert "docs: $(dev)\n\t@$(python) docs/reference.py" in makefile
    assert "make docs    the API reference" in makefile
