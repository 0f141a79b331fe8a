"""The two values with which a host starts a script: JSON, then zlib, then base64.

They travel as environment variables, as command line arguments, or as entries of
any mapping (a Lambda event, notebook widgets). Dagster Pipes 0.1: ``encode_param``,
``PipesEnvVarParamsLoader``, ``PipesCliArgsParamsLoader``, ``PipesMappingParamsLoader``.

Error messages name the variable or argument and never show its content, which may
hold the host's secrets.
"""

from __future__ import annotations

import binascii
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..errors import (
    BootstrapEncodingError,
    BootstrapMissingError,
    BootstrapTooLargeError,
    BootstrapTruncatedError,
)
from . import codec

CONTEXT_VARIABLE = "DAGSTER_PIPES_CONTEXT"
MESSAGES_VARIABLE = "DAGSTER_PIPES_MESSAGES"
CONTEXT_FLAG = "--dagster-pipes-context"
MESSAGES_FLAG = "--dagster-pipes-messages"

#: Bytes of JSON that one value may hold. Linux allows 2 MiB in a command line and
#: its environment together; mappings may hold more, and 5 MB of extras are real.
DEFAULT_LIMIT = 64 * 1024 * 1024

_BASE64_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_MEND = "start the script from its host again, or remove both values to run without a host"


class Bootstrap(NamedTuple):
    """What a host hands over.

    Attributes:
        context: where the context data is: ``{"data": {...}}``, ``{"path": file}`` ...
        messages: where messages go: ``{"path": file}``, ``{"stdio": "stderr"}`` ...
    """

    context: dict[str, Any]
    messages: dict[str, Any]


def encode_param(value: Any) -> str:
    """Encode one value for the bootstrap; the inverse of :func:`decode_param`.

    Raises:
        InvalidParameterError: the value has no form in JSON; names the key.
    """
    compressed = zlib.compress(codec.dumps(value, where="bootstrap: value"))
    return binascii.b2a_base64(compressed, newline=False).decode("ascii")


def decode_param(value: str, *, name: str, limit: int = DEFAULT_LIMIT) -> dict[str, Any]:
    """Decode one value of the bootstrap.

    Args:
        value: base64 text; white space in it is ignored.
        name: what to call it in errors, "environment variable DAGSTER_PIPES_CONTEXT".
        limit: bytes of JSON; decompression stops there, whatever the value claims.

    Raises:
        BootstrapEncodingError: not base64, not zlib, not JSON, or no JSON object.
        BootstrapTruncatedError: the end of the value is missing.
        BootstrapTooLargeError: more than ``limit`` bytes once decompressed.
    """
    text = _decompress(value, name, limit)
    try:
        params = codec.loads(text)
    except ValueError as exc:
        raise BootstrapEncodingError(f"{name} holds no JSON ({exc}); {_MEND}") from None
    if not isinstance(params, dict):
        raise BootstrapEncodingError(
            f"{name} holds a JSON {type(params).__name__} where an object belongs; {_MEND}"
        )
    return params


def _decompress(value: str, name: str, limit: int) -> bytes:
    try:
        digits = b"".join(value.encode("ascii").split())
    except UnicodeEncodeError:
        raise BootstrapEncodingError(f"{name} is not base64 text; {_MEND}") from None
    body = digits.rstrip(b"=")
    if not body:
        raise BootstrapEncodingError(f"{name} is empty; {_MEND}")
    if body.translate(None, _BASE64_ALPHABET) or len(digits) - len(body) > 2:
        raise BootstrapEncodingError(f"{name} is not base64 text; {_MEND}")
    # One digit left over carries no byte. The rest is padded here, so that a value
    # that was cut off is told from one that is no zlib data at all.
    body = body[: len(body) - (len(body) % 4 == 1)]
    compressed = binascii.a2b_base64(body + b"=" * (-len(body) % 4))
    inflater = zlib.decompressobj()
    try:
        text = inflater.decompress(compressed, limit + 1)
    except zlib.error as exc:
        raise BootstrapEncodingError(
            f"{name} is base64, but of no zlib data ({exc}); {_MEND}"
        ) from None
    if len(text) > limit:
        raise BootstrapTooLargeError(
            f"{name} decompresses to more than {limit} bytes; hand large context over in a "
            f"file, and check that the value comes from a host you trust"
        )
    if not inflater.eof or len(digits) % 4:
        raise BootstrapTruncatedError(
            f"{name} is cut off: {len(value)} characters are not all of it; {_MEND}"
        )
    if inflater.unused_data:
        raise BootstrapEncodingError(f"{name} goes on after the end of its data; {_MEND}")
    return text


def is_present(mapping: Mapping[str, Any]) -> bool:
    """Whether a host put at least one of the two values into ``mapping``."""
    return CONTEXT_VARIABLE in mapping or MESSAGES_VARIABLE in mapping


def from_mapping(mapping: Mapping[str, Any], *, source: str) -> Bootstrap:
    """Read both values from the environment or any other mapping.

    Args:
        mapping: has the keys ``DAGSTER_PIPES_CONTEXT`` and ``DAGSTER_PIPES_MESSAGES``.
        source: what an entry of it is called in errors, "environment variable".

    Raises:
        BootstrapMissingError: one of them, or both, are not there.
        BootstrapError: as :func:`decode_param`, with the key's name.
    """
    return _decode_both(
        mapping.get(CONTEXT_VARIABLE),
        mapping.get(MESSAGES_VARIABLE),
        (f"{source} {CONTEXT_VARIABLE}", f"{source} {MESSAGES_VARIABLE}"),
    )


def from_arguments(argv: Sequence[str]) -> Bootstrap | None:
    """Read both values from a command line, as ``--x value`` or ``--x=value``.

    Everything else in ``argv`` is ignored, and of several equal arguments the last
    one counts, as with ``argparse``. Returns None when neither is there.

    Raises:
        BootstrapMissingError: only one of them is there, or one has no value.
        BootstrapError: as :func:`decode_param`, with the argument's name.
    """
    found: dict[str, str] = {}
    arguments = iter(argv)
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        if flag not in (CONTEXT_FLAG, MESSAGES_FLAG):
            continue
        if not equals:
            value = next(arguments, "")
        # base64 has no dash, so this is another argument and the value was forgotten.
        if not value or value.startswith("-"):
            raise BootstrapMissingError(
                f"command line argument {flag} has no value; write {flag}=VALUE"
            )
        found[flag] = value
    if not found:
        return None
    return _decode_both(
        found.get(CONTEXT_FLAG),
        found.get(MESSAGES_FLAG),
        (f"command line argument {CONTEXT_FLAG}", f"command line argument {MESSAGES_FLAG}"),
    )


def _decode_both(context: Any, messages: Any, names: tuple[str, str]) -> Bootstrap:
    decoded: list[dict[str, Any]] = []
    for value, name, other in zip((context, messages), names, reversed(names), strict=True):
        if value is None:
            raise BootstrapMissingError(
                f"{name} is missing; a host sets it together with {other}: pass both on, "
                f"or remove both to run without a host"
            )
        if not isinstance(value, str):
            raise BootstrapEncodingError(
                f"{name} is of type {type(value).__name__} where base64 text belongs; "
                f"pass the host's value on unchanged"
            )
        decoded.append(decode_param(value, name=name))
    return Bootstrap(*decoded)


def to_environment(bootstrap: Bootstrap) -> dict[str, str]:
    """Both values as environment variables; also the mapping for other launchers.

    Raises:
        InvalidParameterError: something in them has no form in JSON; names the key.
    """
    return {
        CONTEXT_VARIABLE: encode_param(bootstrap.context),
        MESSAGES_VARIABLE: encode_param(bootstrap.messages),
    }


def to_arguments(bootstrap: Bootstrap) -> list[str]:
    """Both values as command line arguments, four words.

    Raises:
        InvalidParameterError: something in them has no form in JSON; names the key.
    """
    return [
        CONTEXT_FLAG,
        encode_param(bootstrap.context),
        MESSAGES_FLAG,
        encode_param(bootstrap.messages),
    ]
