"""The three places that name what is public say the same."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import asyncpipes

pytestmark = pytest.mark.host

SOURCE = Path(asyncpipes.__file__).read_text()


def names_for_type_checkers() -> set[str]:
    [block] = [
        node
        for node in ast.parse(SOURCE).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.name for node in imports for alias in node.names}


def test_every_public_name_is_there_and_known_to_type_checkers() -> None:
    public = set(asyncpipes.__all__) - {"__version__"}
    assert public == names_for_type_checkers()
    assert public == set(asyncpipes._HOMES)
    for name in sorted(public):
        value = getattr(asyncpipes, name)
        assert value.__module__.startswith("asyncpipes."), name
        assert value.__doc__, f"{name} has no docstring"
    assert public <= set(dir(asyncpipes))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        asyncpipes.nonsense  # noqa: B018  # the access is the test


def test_every_error_is_a_pipes_error_and_in_the_tree_of_its_docstring() -> None:
    from asyncpipes import errors

    assert errors.__doc__ is not None
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    assert len(classes) > 20
    for kind in classes:
        assert issubclass(kind, errors.PipesError)
        assert kind.__name__ in errors.__doc__
        assert kind.__name__ in asyncpipes.__all__
