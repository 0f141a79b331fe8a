"""Which options the tests give to which command, as their sources say.

Only calls of the helpers count: their words are worked out from literals, from the variables
and parameters of the test that hold such, and from what the module has; what else stands there
is a word that nobody knows. Click's own parser tells the options among them, so what a command
would refuse counts for nothing, and neither does a test that expects it to be refused.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, product

import click

#: Helpers of the tests: arguments that are none of the command's, and words before the others.
HELPERS: dict[str, tuple[int, list[str]]] = {
    "asyncpipes": (0, []),
    "asyncpipes_command": (0, []),
    "Terminal": (0, []),
    "seen": (1, ["run"]),
    "started": (1, ["run"]),
}

_UNKNOWN = "?"
_Names = Mapping[str, Sequence[ast.expr]]
#: A command, those above it in front, and an option of it.
Pair = tuple[str, ...]


def walked(
    command: click.Command, path: Pair = (), parent: click.Context | None = None
) -> set[Pair]:
    """Every option of a command and of those below it, in each of its spellings."""
    context = _context(command, parent)
    options = (each for each in command.get_params(context) if isinstance(each, click.Option))
    found = {(*path, spelling) for option in options for spelling in option.opts}
    for name, below in getattr(command, "commands", {}).items():
        found |= walked(below, (*path, name), context)
    return found


def given(command: click.Command, source: str) -> set[Pair]:
    """What a module of tests gives."""
    module = ast.parse(source)
    names = _assigned(module.body)
    pairs: set[Pair] = set()
    for function in module.body:
        if isinstance(function, ast.FunctionDef) and not _expects_a_refusal(function):
            known = {**names, **_assigned(ast.walk(function)), **_parameters(function, names)}
            for words in _calls(function, known):
                pairs |= _pairs(command, words)
    return pairs


def _context(command: click.Command, parent: click.Context | None) -> click.Context:
    return click.Context(command, parent=parent, **command.context_settings)


def _pairs(
    command: click.Command,
    words: list[str],
    path: Pair = (),
    parent: click.Context | None = None,
) -> set[Pair]:
    context = _context(command, parent)
    try:
        _, rest, order = command.make_parser(context).parse_args(args=list(words))
    except click.UsageError:
        return set()
    if not context.allow_interspersed_args:  # the rest is no matter of this command's
        words = words[: len(words) - len(rest)]
    spellings = {spelling for parameter in order for spelling in parameter.opts}
    found = {(*path, word) for word in words if word in spellings and word.startswith("-")}
    below = getattr(command, "commands", {}).get(rest[0]) if rest else None
    if below is not None:
        found |= _pairs(below, rest[1:], (*path, rest[0]), context)
    return found


def _expects_a_refusal(function: ast.FunctionDef) -> bool:
    return any(
        isinstance(node, ast.Compare) and ast.unparse(node).endswith(".returncode == 2")
        for node in ast.walk(function)
    )


def _assigned(nodes: Iterable[ast.AST]) -> dict[str, list[ast.expr]]:
    """What each name is assigned, be it several things in turn."""
    found: dict[str, list[ast.expr]] = {}
    for node in nodes:
        match node:
            case (
                ast.Assign(targets=[ast.Name(name)], value=value)
                | ast.AnnAssign(target=ast.Name(name), value=ast.expr() as value)
            ):
                found.setdefault(name, []).append(value)
    return found


def _parameters(function: ast.FunctionDef, names: _Names) -> dict[str, list[ast.expr]]:
    """What ``parametrize`` gives to each parameter."""
    found: dict[str, list[ast.expr]] = {}
    for decorator in function.decorator_list:
        match decorator:
            case ast.Call(func=ast.Attribute(attr="parametrize"), args=[given_to, values]):
                rows = _rows(values, names)
                match ast.literal_eval(given_to):
                    case str(name):
                        found[name] = rows
                    case several:
                        tuples = (row.elts for row in rows if isinstance(row, ast.Tuple))
                        columns = map(list, zip(*tuples, strict=True))
                        found.update(zip(several, columns, strict=True))
    return found


def _rows(values: ast.expr, names: _Names) -> list[ast.expr]:
    match values:
        case ast.List(rows):
            return rows
        case ast.Name(name):
            return [row for each in names.get(name, []) for row in _rows(each, {})]
    return []


def _calls(function: ast.FunctionDef, names: _Names) -> Iterator[list[str]]:
    for node in ast.walk(function):
        match node:
            case ast.Call(func=ast.Name(name), args=arguments) if name in HELPERS:
                skipped, before = HELPERS[name]
                for words in _joined(arguments[skipped:], names):
                    yield before + words


def _joined(elements: Sequence[ast.expr], names: _Names) -> list[list[str]]:
    """All that the elements of a call or a list may be together."""
    alternatives = (
        _sequences(each.value, names) if isinstance(each, ast.Starred) else _words(each, names)
        for each in elements
    )
    return [list(chain.from_iterable(parts)) for parts in product(*alternatives)]


def _sequences(node: ast.expr, names: _Names) -> list[list[str]]:
    """All that an expression may be which stands for several words."""
    match node:
        case ast.List(elements) | ast.Tuple(elements):
            return _joined(elements, names)
        case ast.IfExp(body=one, orelse=other):
            return _sequences(one, names) + _sequences(other, names)
        case ast.Name(name) if name in names:
            others = {other: names[other] for other in names if other != name}
            return [words for value in names[name] for words in _sequences(value, others)]
    return [[_UNKNOWN]]


def _words(node: ast.expr, names: _Names) -> list[list[str]]:
    """All that an expression may be which stands for a single word."""
    match node:
        case ast.Constant(value=str(text)):
            return [[text]]
        case ast.Name(name) if name in names:
            others = {other: names[other] for other in names if other != name}
            return [words for value in names[name] for words in _words(value, others)]
    return [[_UNKNOWN]]
