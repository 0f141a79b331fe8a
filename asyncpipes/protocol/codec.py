"""JSON for the wire: orjson, with the standard library where orjson would lie.

What becomes of Python values, in :func:`dumps` and :func:`plain` alike:

================================== ====================================================
Python                             JSON
================================== ====================================================
str, int, float, bool, None        itself; subclasses as their base
list, tuple, set, frozenset        array; sets sorted, by ``repr`` where they cannot be
dict, any Mapping, dataclass       object
keys                               str; int, float, bool, None as the ``json`` module
datetime, date, time               ISO 8601 text (``isoformat``)
timedelta                          seconds, a float
UUID, os.PathLike                  text
Decimal                            number if a float holds it exactly, else its text
bytes, bytearray, memoryview       base64 text
Enum                               its value
numpy scalar, numpy array          its Python value, nested arrays
numpy datetime64, timedelta64      ISO 8601 text, seconds
everything else                    refused; so are nan, infinities and NaT
================================== ====================================================

orjson alone would write nan as ``null``, refuse integers beyond 64 bits, lone
surrogates and deep nesting, and read an integer beyond 64 bits as a float.
"""

from __future__ import annotations

import binascii
import json
import math
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from enum import Enum
from typing import Any

import orjson

from ..errors import InvalidParameterError

# datetimes and dataclasses go through convert(), so that both paths agree on them:
# orjson's own forms differ from isoformat() and leave out fields such as `_x`.
_OPTIONS = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS

# orjson holds integers from -2**63, of 19 digits, to 2**64 - 1, of 20. Nanoseconds since
# the epoch have 19 digits, so without a minus these are not worth the slow path.
_LONG_RUN = b"0" * 20
_LONG_NEGATIVE_RUN = b"-" + b"0" * 19
_DIGITS_TO_ZERO = bytes.maketrans(b"123456789", b"0" * 9)

# A key in an error message is there to be recognised, not to be read in full.
_MAX_KEY_CHARS = 80

# The interpreter's limit for int to text (sys.set_int_max_str_digits) cannot be set lower.
_LONG_INTEGER_BITS = 2000

#: Levels of arrays and objects in what is decoded: orjson's own limit, kept where the
#: standard library decodes too, which may take thousands or fewer, as its version has it.
MAX_NESTING = 1024

#: Levels of arrays and objects in what is encoded. Every reader takes as many, with a
#: message around them: the standard library of Python 3.10 and 3.11, which stock hosts
#: read with, counts them together with its callers and ends at 1,000.
MAX_NESTING_SENT = 500


class _Refusal(Exception):
    """A value that JSON cannot hold; ``path`` is collected from the inside out."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.path: list[str] = []

    def __str__(self) -> str:
        return "".join(reversed(self.path)) + " " + self.reason


def dumps(value: Any, *, where: str) -> bytes:
    """Encode ``value`` as compact JSON, without a newline.

    Args:
        value: any value of the table above.
        where: the method and parameter, such as ``"report_custom_message: payload"``;
            error messages start with it and go on with the path to the culprit.

    Raises:
        InvalidParameterError: the value, or something inside it, has no form in
            JSON, contains itself, or is nested too deeply.
    """
    try:
        line = orjson.dumps(value, convert, _OPTIONS)
    except TypeError:
        return _dumps_plain(plain(value, where=where), where)
    if b"null" in line:
        plain(value, where=where)  # orjson writes nan and infinities as null
    return line


def _dumps_plain(value: Any, where: str) -> bytes:
    """Encode plain values; the standard library takes what orjson refuses."""
    try:
        return orjson.dumps(value)
    except TypeError:
        pass  # an integer beyond 64 bits, a lone surrogate, or more than 254 levels
    if _is_deeper(value, MAX_NESTING_SENT):
        raise _too_deep(where)
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    except RecursionError:
        raise _too_deep(where) from None
    return text.encode("ascii")


def plain(value: Any, *, where: str) -> Any:
    """Return ``value`` as a copy that consists of plain JSON values only.

    The result holds dict (with str keys), list, str, int, finite float, bool and
    None, converted as the table of this module says.

    Raises:
        InvalidParameterError: as :func:`dumps`, with the same messages.
    """
    try:
        return _walk(value)
    except _Refusal as refusal:
        raise InvalidParameterError(f"{where}{refusal}") from refusal.__cause__
    except RecursionError:
        raise _too_deep(where) from None


def _too_deep(where: str) -> InvalidParameterError:
    return InvalidParameterError(
        f"{where} contains itself or is nested too deeply for JSON, of which"
        f" {MAX_NESTING_SENT} levels are sent at most; flatten it"
    )


def _is_deeper(value: Any, limit: int) -> bool:
    """Whether plain ``value`` has more levels of arrays and objects than ``limit``."""
    level = [value] if type(value) in (dict, list) else []
    for _ in range(limit):
        if not level:
            return False
        level = [
            child
            for each in level
            for child in (each.values() if type(each) is dict else each)
            if type(child) is dict or type(child) is list
        ]
    return bool(level)


def _walk(value: Any) -> Any:
    kind = type(value)
    if value is None or kind is str or kind is bool:
        return value
    if kind is int:
        if value.bit_length() > _LONG_INTEGER_BITS:
            _check_digits(value)
        return value
    if kind is float:
        if math.isfinite(value):
            return value
        raise _Refusal(f"is {value}, which JSON cannot hold; send None or a text instead")
    if kind is dict:
        return _walk_dict(value)
    if kind is list or kind is tuple:
        items: list[Any] = []
        try:
            for item in value:
                items.append(_walk(item))
        except _Refusal as refusal:
            refusal.path.append(f"[{len(items)}]")
            raise
        return items
    try:
        simpler = convert(value)
    except (_Refusal, RecursionError):
        raise
    except Exception as exc:  # the value's own code: __fspath__, a property, a Mapping
        raise _Refusal(f"is {_a(value)} that raised while it was read: {_safe(exc)}") from exc
    return _walk(simpler)


def _check_digits(value: int) -> None:
    try:
        str(value)
    except ValueError:
        raise _Refusal(
            "is an integer with too many digits for this interpreter; send it as text, such as"
            " hex()"
        ) from None


def _walk_dict(value: dict[Any, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, item in value.items():
        name = _key(key)
        if name in result:
            raise _Refusal(f"has two keys that both become {name!r}, and would lose a value")
        try:
            result[name] = _walk(item)
        except _Refusal as refusal:
            refusal.path.append(_segment(name))
            raise
    return result


def _key(key: Any) -> str:
    """A key as text, as the standard library's ``json`` writes it."""
    if isinstance(key, str):
        return str.__str__(key)
    if key is None:
        return "null"
    if isinstance(key, bool):
        return "true" if key else "false"
    if isinstance(key, float):
        if not math.isfinite(key):
            raise _Refusal(f"has the key {float(key)}, which JSON cannot hold; use a text")
        return float.__repr__(key)
    if isinstance(key, int):
        try:
            return int.__repr__(key)
        except ValueError:
            raise _Refusal("has an integer key with too many digits; use a text") from None
    raise _Refusal(
        f"has a key {_a(key)}; keys are str, or int, float, bool or None, which become text"
    )


def _segment(key: str) -> str:
    if key.isidentifier() and len(key) <= _MAX_KEY_CHARS:
        return "." + key
    shown = repr(key[:_MAX_KEY_CHARS]) + ("..." if len(key) > _MAX_KEY_CHARS else "")
    return f"[{shown}]"


def _a(value: Any) -> str:
    kind = type(value)
    name = kind.__qualname__
    if kind.__module__ != "builtins":
        name = f"{kind.__module__}.{name}"
    return f"of type {name}"


def _safe(exc: Exception) -> str:
    try:
        return f"{type(exc).__name__}: {exc}"
    except Exception:  # an exception whose text raises too
        return type(exc).__name__


def shown(value: Any, chars: int = 60) -> str:
    """``value`` for an error message: cut to about ``chars`` characters, and never an error.

    Of a text only as much is copied as is shown, and nested values are not entered:
    they may be large, and deeper than ``repr`` can go.
    """
    if type(value) is dict:
        return "an object"
    if type(value) is list:
        return "an array"
    if issubclass(type(value), str):  # isinstance() may run the value's own code
        text = str.__str__(value)
        return repr(text[:chars]) + ("..." if len(text) > chars else "")
    try:
        text = repr(value)
    except Exception:  # the value's own code, or an int with too many digits
        return f"a value {_a(value)}"
    return text if len(text) <= chars else f"{text[: chars - 3]}..."


def convert(value: Any) -> Any:
    """One step towards plain JSON: what stands for ``value``, not what is inside it.

    It is the ``default`` of orjson and a step of :func:`plain`, which keeps both
    in agreement. It raises for values that have no form in JSON.
    """
    if isinstance(value, Enum):
        return value.value
    for base, unwrap in _BASES:
        if isinstance(value, base):
            return unwrap(value)
    if isinstance(value, (set, frozenset)):
        return _sorted(value)
    if isinstance(value, (datetime, date, time)):
        if value != value:  # pandas.NaT is a datetime
            raise _Refusal("is NaT, which JSON cannot hold; send None or a text instead")
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return binascii.b2a_base64(bytes(value), newline=False).decode("ascii")
    if isinstance(value, Mapping):
        return {key: value[key] for key in value}
    if hasattr(type(value), "__dataclass_fields__"):
        from dataclasses import fields

        return {each.name: getattr(value, each.name) for each in fields(value)}
    if is_numpy(value):
        return _from_numpy(value)
    if is_path(value):
        from os import fsdecode

        return fsdecode(value)
    return _convert_number_like(value)


# Subclasses become their base, whatever they override; bool has no subclasses.
_BASES: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (str, str.__str__),
    (int, int.__int__),
    (float, float.__float__),
    (dict, lambda value: dict(dict.items(value))),
    (list, lambda value: list(list.__iter__(value))),
    (tuple, lambda value: list(tuple.__iter__(value))),
)


def _convert_number_like(value: Any) -> Any:
    # Imported here: both cost milliseconds, and most scripts send neither.
    from decimal import Decimal
    from uuid import UUID

    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, Decimal):
        if not value.is_finite():
            raise _Refusal(f"is {value}, which JSON cannot hold; send None or a text instead")
        number = float(value)
        return number if Decimal(repr(number)) == value else str(value)
    raise _Refusal(f"is {_a(value)}, which has no form in JSON; convert it first")


def _sorted(value: set[Any] | frozenset[Any]) -> list[Any]:
    # frozensets compare as subsets, which is no order; their sorted lists are one.
    items = [_sorted(item) if isinstance(item, frozenset) else item for item in value]
    try:
        return sorted(items)
    except TypeError:
        return sorted(items, key=repr)


def is_path(value: Any) -> bool:
    """Whether ``value`` is an ``os.PathLike``, which is this method and nothing else."""
    return hasattr(type(value), "__fspath__")


def is_numpy(value: Any) -> bool:
    """Whether ``value`` is a numpy scalar or array; does not import numpy."""
    return any(base.__module__.partition(".")[0] == "numpy" for base in type(value).__mro__)


def _from_numpy(value: Any) -> Any:
    kind = getattr(getattr(value, "dtype", None), "kind", None)
    if kind is None:
        raise _Refusal(f"is {_a(value)}, which has no form in JSON; convert it first")
    if getattr(value, "ndim", 0) or hasattr(value, "__setitem__"):
        if kind in "mM":  # tolist() would give bare integers for nanoseconds
            return list(value) if value.ndim else value[()]
        return value.tolist()
    if kind == "M":
        if value != value:
            raise _Refusal("is NaT, which JSON cannot hold; send None or a text instead")
        return str(value)
    if kind == "m":
        return float(value / type(value)(1, "s"))
    item = value.item()
    # A longdouble has no Python type of its own and returns itself.
    return float(value) if type(item) is type(value) else item


def has_long_digits(data: bytes | bytearray | memoryview) -> bool:
    """Whether 20 digits stand in a row, or 19 after a minus: maybe an integer beyond 64 bits.

    orjson returns such integers as floats. A reader may scan a whole chunk of
    lines at once and use :func:`loads_exact` for the lines of those that hit.
    """
    if isinstance(data, memoryview):
        data = bytes(data)
    zeros = data.translate(_DIGITS_TO_ZERO)
    return _LONG_RUN in zeros or _LONG_NEGATIVE_RUN in zeros


def loads(line: bytes | bytearray | memoryview) -> Any:
    """Decode one JSON text exactly: no integer loses digits.

    Accepts what the standard library accepts, so also the ``NaN`` and
    ``Infinity`` that stock scripts send, and lone surrogate escapes.

    Raises:
        ValueError: not UTF-8, not JSON, or nested too deeply; the text is the reason.
    """
    if not has_long_digits(line):
        try:
            return orjson.loads(line)
        except ValueError:
            pass  # the standard library accepts more, and words its reasons better
    return loads_exact(line)


def loads_exact(line: bytes | bytearray | memoryview) -> Any:
    """Decode one JSON text with the standard library; see :func:`loads`.

    Raises:
        ValueError: as :func:`loads`.
    """
    try:
        text = str(line, "utf-8")
    except UnicodeDecodeError as exc:
        raise ValueError(
            f"invalid UTF-8: byte 0x{exc.object[exc.start]:02x} at offset {exc.start}"
        ) from None
    try:
        value = json.loads(text)
    except json.JSONDecodeError as exc:
        # Some of its messages end so themselves.
        what = exc.msg.removesuffix(" at")
        raise ValueError(f"not JSON: {what} at column {exc.pos + 1}") from None
    except RecursionError:
        raise ValueError("nested too deeply to be decoded") from None
    except ValueError:
        # The interpreter's limit for text to int (sys.set_int_max_str_digits).
        raise ValueError("holds an integer with too many digits for this interpreter") from None
    if _is_deeper(value, MAX_NESTING):
        raise ValueError(f"nested too deeply to be decoded: more than {MAX_NESTING} levels")
    return value
