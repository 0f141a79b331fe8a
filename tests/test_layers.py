"""The layers' rules, read from the source: who may import whom, and that there is no cycle.

Every ``import`` statement counts, those inside functions too; what stands under
``if TYPE_CHECKING:`` does not, since it never runs. Cycles are looked for among
the imports that run when a module is loaded.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = "asyncpipes"
ROOT = Path(__file__).parents[1] / PACKAGE

#: What a layer may import of the package, beside itself and ``errors``.
#: The adapters are leaves: they see all that is below, and nothing sees them.
BELOW: dict[str, set[str]] = {
    "errors": set(),
    "protocol": set(),
    "channels": {"protocol"},
    "external": {"protocol", "channels"},
    "host": {"protocol", "channels"},
    "testing": {"protocol", "channels", "external", "host"},
    "dagster": {"protocol", "channels", "external", "host"},
    "cli": {"protocol", "channels", "external", "host"},
    "__main__": {"cli"},
}
ADAPTERS = {"dagster", "cli", "__main__"}

#: The protocol does no I/O and knows no loop, thread or clock that waits.
IO_MODULES = {
    "aiofiles", "anyio", "asyncio", "concurrent", "fcntl", "fileinput", "glob", "http", "io",
    "logging", "mmap", "multiprocessing", "os", "pathlib", "queue", "sched", "select",
    "selectors", "shutil", "signal", "socket", "socketserver", "ssl", "subprocess", "tempfile",
    "threading", "urllib",
}  # fmt: skip

#: Packages from outside, and the modules (or layers) that may import them.
THIRD_PARTY: dict[str, set[str]] = {
    "orjson": {"protocol"},
    "anyio": {"channels", "host", "testing", "dagster", "cli"},
    "aiofiles": {"channels", "host", "testing"},
    "exceptiongroup": {"protocol", "external", "host", "testing", "dagster", "cli"},
    "dagster": {"dagster"},
    # register_stock, and stock loaders and writers: only when the user brings them.
    "dagster_pipes": {"dagster", "external"},
    "click": {"cli"},
    "rich": {"cli"},
    "tomli": {"cli"},  # tomllib, on Python 3.10
    "obstore": {"channels.object_store"},
    "nats": {"channels.nats"},
}

#: Exceptions to the rules, as (module, what it imports), each with its reason.
ALLOWED: dict[tuple[str, str], str] = {
    ("protocol.codec", "os"): "os.PathLike and os.fsdecode touch no file; see the test below",
}


@dataclass(frozen=True)
class Import:
    """One import statement: ``module`` (without the package's name) imports ``target``."""

    module: str
    target: str
    line: int
    at_load: bool

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.target}"


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and (
        (isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING")
        or (isinstance(node.test, ast.Attribute) and node.test.attr == "TYPE_CHECKING")
    )


def statements(node: ast.AST, at_load: bool = True) -> Iterator[tuple[ast.stmt, bool]]:
    """All import statements below ``node`` that can run, and whether loading runs them."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, at_load
        elif is_type_checking(child):
            assert isinstance(child, ast.If)
            for statement in child.orelse:
                yield from statements(ast.Module([statement], []), at_load)
        else:
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            yield from statements(child, at_load and not inside)


def read_tree(root: Path) -> dict[str, list[Import]]:
    """Every module below ``root`` with its imports; ``""`` is the package itself."""
    files = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        files[".".join(parts[:-1] if is_package else parts)] = (path, is_package)
    tree: dict[str, list[Import]] = {}
    for module, (path, is_package) in files.items():
        found = tree.setdefault(module, [])
        for statement, at_load in statements(ast.parse(path.read_text(encoding="utf-8"))):
            for target in targets(statement, module, is_package, set(files)):
                found.append(Import(module, target, statement.lineno, at_load))
    return tree


def targets(node: ast.stmt, module: str, is_package: bool, known: set[str]) -> Iterator[str]:
    """The modules that one statement loads, with the package's own names made absolute."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    assert isinstance(node, ast.ImportFrom)
    base = node.module or ""
    if node.level:
        parents = [PACKAGE, *filter(None, module.split("."))]
        keep = len(parents) - node.level + (1 if is_package else 0)
        base = ".".join([*parents[:keep], *filter(None, [base])])
    for alias in node.names:
        # "from .protocol import events" loads a module, "... import LogEvent" a name of one.
        submodule = f"{base}.{alias.name}".removeprefix(f"{PACKAGE}.")
        yield f"{PACKAGE}.{submodule}" if submodule in known else base


def layer_of(module: str) -> str:
    return module.split(".")[0]


def judge(found: Import) -> str | None:
    """Why this import is against the rules, or None."""
    layer = layer_of(found.module)
    top, _, inner = found.target.partition(".")
    if (found.module, found.target) in ALLOWED:
        return None
    if top == PACKAGE:
        return judge_inner(found, layer, layer_of(inner))
    if layer == "protocol" and top in IO_MODULES:
        return f"{found}: the protocol does no I/O"
    if layer == "external" and top in ("anyio", "aiofiles"):
        return f"{found}: the external side runs with orjson alone"
    if top in sys.stdlib_module_names or top == "tomllib":  # from Python 3.11 on
        return None
    if top not in THIRD_PARTY:
        return f"{found}: not a dependency of this package"
    if {layer, found.module} & THIRD_PARTY[top]:
        return None
    return f"{found}: only {', '.join(sorted(THIRD_PARTY[top]))} may"


def judge_inner(found: Import, layer: str, target: str) -> str | None:
    if not found.module:
        # The package re-exports the external side at once and the rest on demand;
        # a user who never asks for an adapter must never load one.
        return f"{found}: adapters are leaves" if target in ADAPTERS else None
    if not target:
        # Leaves may use the public names like any user; a module below would make a cycle.
        return None if layer in ADAPTERS else f"{found}: the package re-exports this module"
    if target in (layer, "errors"):
        return None
    if layer not in BELOW:
        return f"{found}: {layer} is no known layer"
    if target not in BELOW[layer]:
        return f"{found}: {layer} may import {', '.join(sorted(BELOW[layer])) or 'errors'} only"
    return None


def broken_rules(tree: dict[str, list[Import]]) -> list[str]:
    verdicts = (judge(found) for imports in tree.values() for found in imports)
    return [verdict for verdict in verdicts if verdict] + [
        "import cycle: " + " -> ".join(cycle) for cycle in cycles(tree)
    ]


def cycles(tree: dict[str, list[Import]]) -> list[list[str]]:
    """Each cycle once, among the imports that run when a module is loaded."""
    edges = {
        module: {
            target
            for found in imports
            if found.at_load and found.target.split(".")[0] == PACKAGE
            if (target := found.target.removeprefix(PACKAGE).removeprefix(".")) in tree
        }
        for module, imports in tree.items()
    }
    found_cycles: list[list[str]] = []
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> None:
        if module in path:
            found_cycles.append([*path[path.index(module) :], module])
            return
        if module in done:
            return
        for target in sorted(edges[module] - {module}):
            visit(target, [*path, module])
        done.add(module)

    for module in sorted(edges):
        visit(module, [])
    return found_cycles


def test_the_package_keeps_its_layers() -> None:
    tree = read_tree(ROOT)
    assert {"errors", "protocol.events"} <= set(tree), "the package was not found"
    assert broken_rules(tree) == []


def test_no_exception_is_left_over() -> None:
    used = {
        (found.module, found.target) for imports in read_tree(ROOT).values() for found in imports
    }
    assert set(ALLOWED) <= used, "an exception to the rules that nothing needs any more"


def test_the_protocol_takes_only_what_touches_no_file_from_os() -> None:
    used = {
        node.attr
        for module, target in ALLOWED
        if target == "os"
        for node in ast.walk(ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text()))
        if isinstance(node, ast.Attribute)
        if isinstance(node.value, ast.Name) and node.value.id == "os"
    }
    assert used <= {"PathLike", "fspath", "fsdecode"}


BAD_TREES = [
    ("protocol/framing.py", "import asyncio", "the protocol does no I/O"),
    ("protocol/framing.py", "import os.path", "the protocol does no I/O"),
    ("protocol/framing.py", "from threading import Lock", "the protocol does no I/O"),
    ("protocol/framing.py", "def f():\n    import socket", "the protocol does no I/O"),
    ("protocol/framing.py", "from ..channels import base", "protocol may import errors only"),
    ("external/context.py", "import anyio", "runs with orjson alone"),
    ("external/context.py", "from aiofiles import open", "runs with orjson alone"),
    ("external/context.py", "from ..host import session", "external may import"),
    ("external/context.py", "from asyncpipes.host.session import run", "external may import"),
    ("external/context.py", "async def f():\n    from .. import host", "external may import"),
    ("host/session.py", "from ..external.context import x", "host may import"),
    ("host/session.py", "import asyncpipes.external", "host may import"),
    ("channels/base.py", "from ..external import outbox", "channels may import protocol only"),
    ("channels/base.py", "from ..host.session import run", "channels may import protocol only"),
    ("channels/base.py", "import obstore", "only channels.object_store may"),
    ("host/session.py", "from ..dagster import client", "host may import"),
    ("testing.py", "from .cli.main import main", "testing may import"),
    ("__init__.py", "from .cli.main import main", "adapters are leaves"),
    ("__init__.py", "def __getattr__(n):\n    from . import dagster", "adapters are leaves"),
    ("host/session.py", "from .. import run", "the package re-exports this module"),
    ("host/session.py", "import rich", "only cli may"),
    ("cli/main.py", "import dagster", "only dagster may"),
    ("host/session.py", "import numpy", "not a dependency"),
    ("server/main.py", "from ..protocol import framing", "server is no known layer"),
    ("protocol/framing.py", "from .b import y", "import cycle: protocol.b -> protocol.framing"),
    ("protocol/framing.py", "try:\n    from . import b\nfinally: pass", "import cycle"),
]  # fmt: skip

GOOD_TREES = [
    ("protocol/framing.py", "import json, orjson\nfrom ..errors import PipesError"),
    ("protocol/framing.py", "import typing\nif typing.TYPE_CHECKING:\n    import asyncio"),
    ("protocol/framing.py", "def f():\n    from .b import y"),
    ("channels/object_store.py", "import obstore, os\nfrom ..protocol.framing import z"),
    ("external/context.py", "import asyncio\nfrom ..channels import base\nfrom . import outbox"),
    ("host/session.py", "import anyio, aiofiles.os\nfrom ..protocol import framing"),
    ("cli/main.py", "import click, rich.table\nfrom ..host.session import run"),
    ("cli/main.py", "from .. import __version__"),
    ("__init__.py", "from .external.context import x\ndef __getattr__(n):\n    from . import host"),
]  # fmt: skip


def plant(root: Path, file: str, source: str) -> dict[str, list[Import]]:
    """A small package with one file of its own, read as the real one is."""
    modules = {"protocol/b.py": "from .framing import z", "protocol/framing.py": "z = 1"}
    layers = ("protocol", "channels", "external", "host", "dagster", "cli", "")
    modules |= {f"{layer}/__init__.py".lstrip("/"): "" for layer in layers}
    modules |= {
        f"{module}.py": ""
        for module in ("channels/base", "external/outbox", "host/session", "cli/main", "errors")
    }
    modules[file] = source
    for name, text in modules.items():
        path = root / PACKAGE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return read_tree(root / PACKAGE)


@pytest.mark.parametrize(("file", "source", "complaint"), BAD_TREES)
def test_a_bad_import_is_found(tmp_path: Path, file: str, source: str, complaint: str) -> None:
    broken = broken_rules(plant(tmp_path, file, source))
    assert len(broken) == 1, broken
    assert complaint in broken[0]


@pytest.mark.parametrize(("file", "source"), GOOD_TREES)
def test_a_good_import_is_not_blamed(tmp_path: Path, file: str, source: str) -> None:
    assert broken_rules(plant(tmp_path, file, source)) == []
