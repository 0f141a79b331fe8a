"""Cases 6 to 10: how a script ends, what it has delivered by then, and what is said of it."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import DEVNULL

import pytest

from asyncpipes import open_pipes_session
from tests.faults.cases import case
from tests.faults.runs import Report
from tests.faults.subjects import Subject

_THROWS_AWAY = "it throws away what a script reported that then failed"
_GREEN = "it has not seen `closed`, and calls the run a success"

_AFTER = {
    "materialization": 'pipes.report_asset_materialization({"n": 1})',
    "check": 'pipes.report_asset_check("fresh", True)',
}
_KILLED = "os.kill(os.getpid(), signal.SIGKILL)"
_ABRUPT = "os._exit(0)"

_REPORTS = """
    with open_pipes() as pipes:
        pipes.log.info("before")
        pipes.report_custom_message("before")
        {report}
        {ending}
        pipes.report_custom_message("never")
"""


async def _end_after(subject: Subject, after: str, ending: str) -> Report:
    script = _REPORTS.format(report=_AFTER[after], ending=ending)
    report = await subject.run(script, checks=["fresh"] if after == "check" else [])
    assert report.opened
    assert report.custom == ["before"]
    assert report.logs == [("INFO", "before")]
    if after == "materialization":
        assert report.materializations == [("orders", {"n": 1})]
    else:
        assert report.checks == [("orders", "fresh", True)]
    assert not report.ok
    return report


@pytest.mark.parametrize("after", _AFTER)
@case(
    6,
    fails=_THROWS_AWAY,
    mutants=["leaves_results_to_the_thread", "throws_away_results_of_failures"],
)
async def test_case_06_sigkill_after_a_result(subject: Subject, after: str) -> None:
    report = await _end_after(subject, after, _KILLED)
    assert not report.closed


@pytest.mark.parametrize("after", _AFTER)
@case(6, fails=_GREEN, mutants=["leaves_results_to_the_thread", "believes_the_exit_code"])
async def test_case_06_os_exit_0_after_a_result(subject: Subject, after: str) -> None:
    report = await _end_after(subject, after, _ABRUPT)
    assert not report.closed


@pytest.mark.parametrize("after", _AFTER)
@case(6, fails=_THROWS_AWAY, mutants=["leaves_sigterm_alone", "throws_away_results_of_failures"])
async def test_case_06_sigterm_after_a_result(subject: Subject, after: str) -> None:
    report = await _end_after(subject, after, "os.kill(os.getpid(), signal.SIGTERM)")
    assert report.closed
    assert any("signal 15" in problem for problem in report.problems)


_FLUSHED = """
    async def main():
        async with open_pipes() as pipes:
            for number in range(200):
                pipes.log.info("%d", number)
                pipes.report_custom_message(number)
            await pipes.flush()
            {ending}
            await asyncio.Event().wait()

    asyncio.run(main())
"""
_NO_FLUSH = "it has no flush(), nor anything to await"


@pytest.mark.parametrize("ending", [_KILLED, _ABRUPT], ids=["sigkill", "os._exit"])
@case(6, stock=None, absent=_NO_FLUSH, mutants=["flushes_without_waiting"])
async def test_case_06_killed_after_flush(subject: Subject, ending: str) -> None:
    report = await subject.run(_FLUSHED.format(ending=ending))
    assert report.custom == list(range(200))
    assert report.logs == [("INFO", str(number)) for number in range(200)]
    assert not report.closed
    assert not report.ok


@case(6, stock=None, absent=_NO_FLUSH, mutants=["leaves_sigterm_alone"])
async def test_case_06_sigterm_in_a_task(subject: Subject) -> None:
    report = await subject.run(_FLUSHED.format(ending="os.kill(os.getpid(), signal.SIGTERM)"))
    assert report.custom == list(range(200))
    assert report.closed
    assert any("signal 15" in problem for problem in report.problems)
    assert report.exception is not None
    assert "terminated by SIGTERM" in report.exception
    assert not report.ok


@case(7, fails="the run is a success, with an empty result", mutants=["believes_the_exit_code"])
async def test_case_07_a_script_that_opened_nothing(subject: Subject) -> None:
    report = await subject.run("print('done')")
    assert not report.opened
    assert report.materializations == []
    assert not report.ok
    assert any("never opened" in problem for problem in report.problems)


@case(7, fails="the run is a success; its log has the error", mutants=["believes_the_exit_code"])
async def test_case_07_an_exception_that_is_swallowed_outside(subject: Subject) -> None:
    report = await subject.run("""
        try:
            with open_pipes() as pipes:
                pipes.report_asset_materialization({"n": 1})
                raise ValueError("nobody is to know")
        except ValueError:
            pass
    """)
    assert report.materializations == [("orders", {"n": 1})]
    assert report.closed
    assert report.exception is not None
    assert "nobody is to know" in report.exception
    assert not report.ok


@pytest.mark.parametrize("code", ["", "0", "None"])
@case(
    8,
    fails="it reports SystemExit as an exception; the run is a success all the same",
    mutants=["takes_any_exit_for_a_failure"],
)
async def test_case_08_sys_exit_0(subject: Subject, code: str) -> None:
    report = await subject.run(f"""
        with open_pipes() as pipes:
            pipes.report_asset_materialization({{"n": 1}})
            sys.exit({code})
    """)
    assert report.materializations == [("orders", {"n": 1})]
    assert report.closed
    assert report.exception is None
    assert report.ok, report.problems


@case(8, stock=None, absent="it has no `async with`", mutants=["takes_any_exit_for_a_failure"])
async def test_case_08_sys_exit_0_in_a_task(subject: Subject) -> None:
    report = await subject.run("""
        async def main():
            async with open_pipes() as pipes:
                pipes.report_asset_materialization({"n": 1})
                sys.exit(0)

        asyncio.run(main())
    """)
    assert report.materializations == [("orders", {"n": 1})]
    assert report.exception is None
    assert report.ok, report.problems


@pytest.mark.parametrize("code", ["3", "'why'"])
@case(8, mutants=["takes_any_exit_for_success"])
async def test_case_08_another_exit_code_is_a_failure(subject: Subject, code: str) -> None:
    report = await subject.run(f"with open_pipes() as pipes:\n    sys.exit({code})\n")
    assert report.exception is not None
    assert f"SystemExit: {code.strip(chr(39))}" in report.exception
    assert report.closed
    assert not report.ok


_GROUP = """
    if sys.version_info < (3, 11):
        from exceptiongroup import ExceptionGroup

    def leaf(error, cause=None, note=None):
        if note is not None and sys.version_info >= (3, 11):
            error.add_note(note)
        try:
            raise error from cause
        except Exception as raised:
            return raised

    with open_pipes() as pipes:
        pipes.report_custom_message("before")
        one = leaf(KeyError("leaf one"), leaf(OSError("cause of one")), "note on one")
        two = leaf(TypeError("leaf two"), ExceptionGroup("a cause", [leaf(EOFError("leaf three"))]))
        inner = ExceptionGroup("inner", [two, leaf(ValueError("leaf four"))])
        inner.add_note("note on inner")
        raise ExceptionGroup("outer", [one, inner]) from leaf(LookupError("cause of all"))
"""
_SHOWN = """outer; leaf one; cause of one; inner; note on inner; leaf two; a cause; leaf three;
leaf four; cause of all""".replace("\n", " ").split("; ")
_LOSES_LEAVES = "the exceptions in a group are not sent"


async def _show_every_leaf(subject: Subject) -> None:
    report = await subject.run(_GROUP)
    assert report.closed
    assert not report.ok
    assert report.exception is not None
    for text in _SHOWN:
        assert text in report.exception
    # The oldest Python has notes on groups only.
    assert ("note on one" in report.exception) is (sys.version_info >= (3, 11))


@case(9, fails=_LOSES_LEAVES, mutants=["sends_the_outermost_exception_alone"])
async def test_case_09_nested_groups(subject: Subject) -> None:
    await _show_every_leaf(subject)


@case(9, stock="host", mutants=["sends_the_outermost_exception_alone"])
async def test_case_09_nested_groups_of_our_script(subject: Subject) -> None:
    await _show_every_leaf(subject)


@case(
    10,
    fails="a second open_dagster_pipes() gives the first context, whose calls raise",
    mutants=["hears_nobody_after_closed"],
)
async def test_case_10_one_context_after_the_other(subject: Subject) -> None:
    report = await subject.run("""
        for number in range(3):
            with open_pipes() as pipes:
                pipes.log.info("%d", number)
                pipes.report_custom_message(number)
                assert PipesContext.get() is pipes
    """)
    assert report.custom == [0, 1, 2]
    assert report.logs == [("INFO", "0"), ("INFO", "1"), ("INFO", "2")]
    assert report.ok, report.problems


@case(
    10,
    stock="script",
    fails="a second open_dagster_pipes() gives the first context, whose calls raise",
    mutants=["remembers_its_first_bootstrap"],
)
async def test_case_10_one_process_for_two_hosts(subject: Subject) -> None:
    command = subject.command("""
        import json
        for bootstrap in json.loads(sys.argv[1]):
            os.environ.update(bootstrap)
            with open_pipes() as pipes:
                pipes.report_custom_message(pipes.get_extra("host"))
    """)
    first = open_pipes_session(extras={"host": "first"}, strict=False)
    second = open_pipes_session(extras={"host": "second"}, strict=False)
    async with first, second:
        bootstraps = json.dumps([dict(session.bootstrap) for session in (first, second)])
        process = await asyncio.create_subprocess_exec(*command, bootstraps, stderr=DEVNULL)
        code = await process.wait()
        for session in (first, second):
            session.finish(code)
    for session, name in ((first, "first"), (second, "second")):
        assert [event.payload for event in session.result.custom_messages] == [name]
        assert session.outcome.ok, session.outcome.reasons


@case(
    10,
    stock=None,
    absent="it has one context for the whole process",
    mutants=["has_one_context_for_all_tasks"],
)
async def test_case_10_two_contexts_in_two_tasks(subject: Subject) -> None:
    report = await subject.run("""
        async def work(name):
            async with open_pipes() as pipes:
                for number in range(50):
                    PipesContext.get().report_custom_message([name, number])
                    assert PipesContext.get() is pipes
                    await asyncio.sleep(0)

        async def main():
            await asyncio.gather(work("a"), work("b"))

        asyncio.run(main())
    """)
    for name in ("a", "b"):
        numbers = [number for who, number in report.custom if who == name]
        assert numbers == list(range(50))
    assert report.ok, report.problems


@case(
    10,
    fails="the call raises, and ends the script",
    mutants=["logs_after_closing", "crashes_when_logging_after_closing"],
)
async def test_case_10_logging_after_close(subject: Subject) -> None:
    report = await subject.run("""
        with open_pipes() as pipes:
            log = pipes.log
            log.info("inside")
        log.info("outside")
        note("survived")
    """)
    assert subject.has_noted("survived")
    assert report.logs == [("INFO", "inside")]
    assert report.ok, report.problems
