"""Cases 1 to 5: lines in pieces, large lines, and lines that are no messages."""

from __future__ import annotations

import json

import pytest

from tests.faults.cases import case
from tests.faults.subjects import Subject

_TEARS = "its reader takes half a line for a line and dies, and the run is a success"
_DIES = "its reader dies at such a line, what follows is lost, and the run is a success"

#: For a raw script: writes pieces, each of them when the host has read what came before.
#: Its place in the file tells so; where it has closed the file, nobody waits for it.
_PIECES = """
PATH = _param("DAGSTER_PIPES_MESSAGES")["path"]
HOST = "/proc/%d/" % os.getppid()

def place():
    for fd in os.listdir(HOST + "fd"):
        try:
            if os.readlink(HOST + "fd/" + fd) == PATH:
                return int(open(HOST + "fdinfo/" + fd).read().split()[1])
        except FileNotFoundError:
            pass
    return None

def pieces(*parts):
    for part in parts:
        raw(part)
        while place() not in (None, os.stat(PATH).st_size):
            time.sleep(0.0005)

def line(number):
    message = {"__dagster_pipes_version": "0.1", "method": "report_custom_message",
               "params": {"payload": [number, "ü € 𝄞"]}}
    return json.dumps(message, ensure_ascii=False).encode() + b"\\n"

"""


@case(
    1,
    fails=_TEARS,
    mutants=["gives_out_unfinished_lines", "decodes_what_it_reads_piece_by_piece"],
)
async def test_case_01_lines_in_two_pieces_cut_at_every_byte(subject: Subject) -> None:
    body = """
opened()
note("cuts", len(line(100)))
for cut in range(1, len(line(100)) + 1):
    whole = line(100 + cut)
    pieces(whole[:cut], whole[cut:])
closed()
"""
    report = await subject.run(_PIECES + body, raw=True)
    cuts = int(await subject.noted("cuts"))
    assert cuts > 100
    assert report.custom == [[100 + cut, "ü € 𝄞"] for cut in range(1, cuts + 1)]
    assert report.ok, report.problems


@case(
    1,
    fails=_TEARS,
    mutants=["gives_out_unfinished_lines", "decodes_what_it_reads_piece_by_piece"],
)
async def test_case_01_lines_byte_by_byte(subject: Subject) -> None:
    body = """
opened()
for number in range(3):
    pieces(*(bytes([byte]) for byte in line(number)))
pieces(line(3) + line(4)[:50], line(4)[50:] + line(5) + line(6)[:1], line(6)[1:])
closed()
"""
    report = await subject.run(_PIECES + body, raw=True)
    assert report.custom == [[number, "ü € 𝄞"] for number in range(7)]
    assert report.ok, report.problems


_LARGE = {"500 of 100 KB": (500, 100_000), "5 of 1 MB": (5, 1_000_000)}
_SOMETIMES = "it loses lines in some of the runs only; `python -m benchmarks loss` counts them"
_LARGE_MUTANTS = [
    "gives_out_unfinished_lines",
    "refuses_lines_over_64_kib",
    "lets_messages_overtake",
]


async def _report_large_messages(subject: Subject, size: str, repeats: int) -> None:
    number, length = _LARGE[size]
    for _ in range(repeats):
        report = await subject.run(f"""
            with open_pipes() as pipes:
                for number in range({number}):
                    pipes.report_custom_message([number, "x" * {length}])
                pipes.report_asset_materialization({{"n": {number}}})
        """)
        assert [payload[0] for payload in report.custom] == list(range(number))
        assert {len(payload[1]) for payload in report.custom} == {length}
        assert report.materializations == [("orders", {"n": number})]
        assert report.ok, report.problems


@pytest.mark.parametrize("size", _LARGE)
@case(2, stock=None, absent=_SOMETIMES, mutants=_LARGE_MUTANTS)
async def test_case_02_large_messages_twice(subject: Subject, size: str) -> None:
    await _report_large_messages(subject, size, 2)


@pytest.mark.soak
@pytest.mark.parametrize("size", _LARGE)
@case(2, stock=None, absent=_SOMETIMES, mutants=_LARGE_MUTANTS)
async def test_case_02_large_messages_twenty_times(subject: Subject, size: str) -> None:
    await _report_large_messages(subject, size, 20)


_HEAD = b'{"__dagster_pipes_version":"0.1","method":"report_custom_message"'
_NO_MESSAGES = {
    "garbage": b"Traceback (most recent call last):",
    "a blank line": b"",
    "JSON that is no object": b"[1, 2]",
    "no params": _HEAD + b"}",
    "an unknown parameter": _HEAD + b',"params":{"payload":"bad","more":1}}',
    "an unknown method": b'{"__dagster_pipes_version":"0.1","method":"report_metric","params":{}}',
    "invalid UTF-8": _HEAD + b',"params":{"payload":"\xff\xfe"}}',
    "null bytes": b"\x00" * 4096,
    "nesting without end": _HEAD + b',"params":{"payload":' + b"[" * 100_000,
}
_PASSING_OVER = ["stops_at_bad_lines", "passes_over_bad_lines"]


@pytest.mark.parametrize("line", _NO_MESSAGES.values(), ids=list(_NO_MESSAGES))
@case(3, fails=_DIES, mutants=_PASSING_OVER)
async def test_case_03_a_line_that_is_no_message(subject: Subject, line: bytes) -> None:
    await _report_around(subject, line)


@case(
    3,
    fails="it does not look at the version, and takes the line for a message",
    mutants=[*_PASSING_OVER, "takes_any_version"],
)
async def test_case_03_a_line_of_an_unknown_version(subject: Subject) -> None:
    line = _HEAD.replace(b"0.1", b"9.9") + b',"params":{"payload":"bad"}}'
    await _report_around(subject, line)


async def _report_around(subject: Subject, line: bytes) -> None:
    """Report before and after a bad line, of which only the flag may be seen."""
    (subject.folder / "line").write_bytes(line + b"\n")
    report = await subject.run(
        f"""
        opened()
        custom(1)
        emit("report_asset_materialization", asset_key="orders", data_version=None, metadata={{}})
        raw(open({str(subject.folder / "line")!r}, "rb").read())
        custom(2)
        log("after")
        closed()
        """,
        raw=True,
    )
    assert report.custom == [1, 2]
    assert report.logs == [("INFO", "after")]
    assert report.materializations == [("orders", {})]
    assert report.closed
    assert not report.ok


@case(4, fails=_TEARS, mutants=["drops_what_follows_the_last_newline"])
async def test_case_04_closed_breaks_off_and_the_exit_code_is_0(subject: Subject) -> None:
    report = await subject.run('opened(); custom(1); raw(message("closed")[:-10])', raw=True)
    assert report.custom == [1]
    assert not report.closed
    assert not report.ok
    assert any("could not be read" in problem for problem in report.problems)


@case(4, fails=_TEARS, mutants=["drops_what_follows_the_last_newline", "passes_over_bad_lines"])
async def test_case_04_a_line_after_closed_breaks_off(subject: Subject) -> None:
    body = 'opened(); custom(1); closed(); raw(message("report_custom_message", payload=2)[:-10])'
    report = await subject.run(body, raw=True)
    assert report.custom == [1]
    assert report.closed
    assert not report.ok


@case(4, mutants=["drops_what_follows_the_last_newline"])
async def test_case_04_only_the_last_newline_is_missing(subject: Subject) -> None:
    report = await subject.run('opened(); custom(1); raw(message("closed")[:-1])', raw=True)
    assert report.custom == [1]
    assert report.closed
    assert report.ok, report.problems


_UNKNOWN = {
    "level 25": ("log", {"message": "bad", "level": "Level 25"}),
    "severity INFO": (
        "report_asset_check",
        {
            "asset_key": "orders",
            "check_name": "c",
            "passed": True,
            "severity": "INFO",
            "metadata": {},
        },
    ),
    "metadata type": (
        "report_asset_materialization",
        {
            "asset_key": "orders",
            "data_version": None,
            "metadata": {"n": {"type": "percentage", "raw_value": 1}},
        },
    ),
}


@pytest.mark.parametrize("name", _UNKNOWN)
@case(5, fails=_DIES, mutants=_PASSING_OVER)
async def test_case_05_an_unknown_name_on_the_wire(subject: Subject, name: str) -> None:
    method, params = _UNKNOWN[name]
    message = {"__dagster_pipes_version": "0.1", "method": method, "params": params}
    await _report_around(subject, json.dumps(message).encode())


_UNKNOWN_TO_STOCK = "it sends what no host takes: what follows is lost, and the run is a success"


@case(5, fails=_UNKNOWN_TO_STOCK, mutants=["sends_levels_by_their_own_names"])
async def test_case_05_a_script_logs_at_level_25(subject: Subject) -> None:
    report = await subject.run("""
        import logging
        logging.addLevelName(35, "NOTICE")
        with open_pipes() as pipes:
            pipes.log.setLevel(1)
            for level in (5, 25, 35, 99):
                pipes.log.log(level, "at %d", level)
            pipes.report_asset_materialization({"n": 1})
    """)
    levels = ("DEBUG", "INFO", "WARNING", "CRITICAL")
    texts = ("at 5", "at 25", "at 35", "at 99")
    assert report.logs == list(zip(levels, texts, strict=True))
    assert report.materializations == [("orders", {"n": 1})]
    assert report.ok, report.problems


@case(5, fails=_UNKNOWN_TO_STOCK, mutants=["sends_any_severity"])
async def test_case_05_a_script_is_told_of_an_unknown_severity(subject: Subject) -> None:
    await _report_what_is_refused(subject, 'report_asset_check("c", True, severity="INFO")', "INFO")


@case(5, mutants=["sends_any_metadata_type"])
async def test_case_05_a_script_is_told_of_an_unknown_metadata_type(subject: Subject) -> None:
    metadata = '{"n": {"type": "percentage", "raw_value": 1}}'
    await _report_what_is_refused(
        subject, f"report_asset_materialization({metadata})", "percentage"
    )


async def _report_what_is_refused(subject: Subject, call: str, value: str) -> None:
    """A call that must raise, name what is wrong, and leave the context as it was."""
    report = await subject.run(f"""
        with open_pipes() as pipes:
            try:
                pipes.{call}
            except Exception as error:
                pipes.report_custom_message(str(error))
            pipes.report_asset_materialization({{"n": 1}})
    """)
    assert len(report.custom) == 1
    assert value in report.custom[0]
    assert report.materializations == [("orders", {"n": 1})]
    assert report.checks == []
    assert report.ok, report.problems
