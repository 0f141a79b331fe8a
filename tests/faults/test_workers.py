"""Case 18: forked and spawned workers, each a writer of its own."""

from __future__ import annotations

import pytest

from tests.faults.cases import case
from tests.faults.subjects import Subject

_SILENCE = """
import warnings
# Python 3.12 and later warn of every fork of a process that has threads.
warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*fork")

def ended(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""

#: What is declared; each worker reports one of its own.
_CHECKS = ["fresh_0", "fresh_1", "fresh_2", "fresh_3"]

_FORKED = f"""{_SILENCE}
with open_pipes() as pipes:
    pipes.report_custom_message("parent")
    pids = []
    for number in range(3):
        pid = os.fork()
        if not pid:
            pipes.report_custom_message(number)
            pipes.report_asset_check(f"fresh_{{number}}", True)
            sys.exit(0)
        pids.append(pid)
    assert [ended(pid) for pid in pids] == [0, 0, 0]
    pipes.report_custom_message("parent again")
"""


@case(18, mutants=["forks_report_to_nobody", "all_writers_have_one_id"])
async def test_case_18_forks_that_leave_the_block(subject: Subject) -> None:
    report = await subject.run(_FORKED, checks=_CHECKS[:3])
    assert sorted(map(str, report.custom)) == ["0", "1", "2", "parent", "parent again"]
    assert [name for _, name, _ in sorted(report.checks)] == _CHECKS[:3]
    assert report.ok, report.problems


_POOL = f"""{_SILENCE}
import concurrent.futures, multiprocessing

def work(number):
    if multiprocessing.get_start_method() == "fork":
        pipes = PipesContext.get()
        pipes.report_custom_message(number)
    else:
        with open_pipes() as pipes:
            pipes.report_custom_message(number)
    return number

if __name__ == "__main__":
    multiprocessing.set_start_method({{method!r}})
    with open_pipes() as pipes:
        with multiprocessing.Pool(2) as pool:
            assert sorted(pool.map(work, range(4), chunksize=1)) == [0, 1, 2, 3]
            pool.close()
            pool.join()
        with concurrent.futures.ProcessPoolExecutor(2) as executor:
            assert list(executor.map(work, range(4, 8))) == [4, 5, 6, 7]
        processes = [multiprocessing.Process(target=work, args=(number,)) for number in (8, 9)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
            assert process.exitcode == 0
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
@case(
    18,
    fails="each worker sends `opened` and `closed`, and what follows is out of turn",
    mutants=["all_writers_have_one_id"],
)
async def test_case_18_workers_that_are_spawned(subject: Subject, method: str) -> None:
    report = await subject.run(_POOL.format(method=method))
    assert sorted(report.custom) == list(range(10))
    assert report.ok, report.problems


@case(18, mutants=["forks_report_to_nobody", "workers_do_not_close"])
async def test_case_18_workers_that_are_forked(subject: Subject) -> None:
    report = await subject.run(_POOL.format(method="fork"))
    assert sorted(report.custom) == list(range(10))
    assert report.ok, report.problems


_OS_EXIT = f"""{_SILENCE}
with open_pipes() as pipes:
    pid = os.fork()
    if not pid:
        pipes.report_asset_check("fresh", True)
        pipes.report_custom_message("from the fork")
        pipes.report_asset_materialization({{"rows": 1}})
        os._exit(0)
    assert ended(pid) == 0
"""


@case(
    18,
    fails="nothing tells that a worker did not come to its end: the run is a success",
    mutants=["counts_one_closed_for_all"],
)
async def test_case_18_a_worker_that_skips_its_exit(subject: Subject) -> None:
    report = await subject.run(_OS_EXIT, checks=["fresh"])
    assert report.custom == ["from the fork"]
    assert report.checks == [("orders", "fresh", True)]
    assert report.materializations == [("orders", {"rows": 1})]
    assert not report.ok
    assert any("never closed" in reason for reason in report.problems), report.problems


_CRASHED = f"""{_SILENCE}
import multiprocessing

def exits():
    pipes.log.info("before the exit")
    os._exit(0)

def is_killed():
    pipes.report_custom_message("before the kill")
    os.kill(os.getpid(), signal.SIGKILL)

context = multiprocessing.get_context("fork")
with open_pipes() as pipes:
    for target in (exits, is_killed):
        worker = context.Process(target=target)
        worker.start()
        worker.join()
"""


@case(
    18,
    fails="nothing tells that a worker did not come to its end: the run is a success",
    mutants=["forks_are_announced_late"],
)
async def test_case_18_workers_that_crash_after_their_first_report(subject: Subject) -> None:
    """Whatever it is: nobody would know of the worker without it."""
    report = await subject.run(_CRASHED)
    assert report.custom == ["before the kill"]
    assert [text for _, text in report.logs] == ["before the exit"]
    assert not report.ok
    assert any("2 of 3 contexts" in reason for reason in report.problems), report.problems


_THREADS = f"""{_SILENCE}
import multiprocessing, threading

def report(number, first=None):
    if first is not None:
        first.join()
    pipes.report_custom_message(number)

def in_a_thread(number):
    thread = threading.Thread(target=report, args=(number,))
    thread.start()
    thread.join()

def until_it_is_terminated():
    in_a_thread(4)
    os.write(write, b"x")
    time.sleep(3600)

def outlived_by_a_thread():
    report(5)
    threading.Thread(target=report, args=(6, threading.current_thread())).start()

read, write = os.pipe()
context = multiprocessing.get_context("fork")
with open_pipes() as pipes:
    with context.Pool(2) as pool:  # which ends most of its workers by SIGTERM
        pool.map(in_a_thread, range(4), chunksize=1)
    worker = context.Process(target=until_it_is_terminated)
    worker.start()
    assert os.read(read, 1) == b"x"
    worker.terminate()
    worker.join()
    worker = context.Process(target=outlived_by_a_thread)
    worker.start()
    worker.join()
    assert worker.exitcode == 0
"""


@case(18, mutants=["forks_report_to_nobody", "workers_leave_sigterm_to_the_first_report"])
async def test_case_18_workers_that_report_from_threads(subject: Subject) -> None:
    report = await subject.run(_THREADS)
    assert sorted(report.custom) == list(range(7))
    assert report.ok, report.problems


_TERMINATED = f"""{_SILENCE}
import multiprocessing

read, write = os.pipe()

def work(number):
    PipesContext.get().report_asset_check(f"fresh_{{number}}", True)
    os.write(write, b"x")  # the check is in the file
    while True:
        time.sleep(3600)

if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    with open_pipes() as pipes:
        workers = [context.Process(target=work, args=(number,)) for number in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            assert os.read(read, 1) == b"x"
        for worker in workers:
            worker.terminate()
            worker.join()
            assert worker.exitcode == -signal.SIGTERM
"""


@case(18, mutants=["forks_report_to_nobody", "workers_do_not_close"])
async def test_case_18_workers_that_are_terminated(subject: Subject) -> None:
    report = await subject.run(_TERMINATED, checks=_CHECKS)
    assert [name for _, name, _ in sorted(report.checks)] == _CHECKS
    assert report.ok, report.problems


@case(18, stock="host", mutants=["forks_report_to_nobody"])
async def test_case_18_forks_of_our_script_under_either_host(subject: Subject) -> None:
    """One `opened` and one `closed`, so that a stock host complains of nothing."""
    report = await subject.run(_FORKED, checks=_CHECKS[:3])
    assert sorted(map(str, report.custom)) == ["0", "1", "2", "parent", "parent again"]
    assert [name for _, name, _ in sorted(report.checks)] == _CHECKS[:3]
    assert report.logs == []
    assert report.ok, report.problems
