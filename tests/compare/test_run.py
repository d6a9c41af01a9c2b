from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import pytest

from datadiet.compare import run
from datadiet.compare.run import CellState, read_comparison, run_cells, write_comparison
from datadiet.config import MOST_EPOCHS, read_config
from datadiet.errors import ArgumentError, DataError
from datadiet.files import locked
from toys import OPTIONS, made_up_plan

ONE = made_up_plan(seeds=[0])
FULL, DIET = ONE.cells()[:2]
SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


class Recorder:
    """The runs that were started, in their order."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.lock = threading.Lock()

    def changed(self, state: CellState) -> None:
        with self.lock:
            self.started += [state.cell.name] if state.status == "running" else []


def compared(folder, plan=ONE, jobs=1) -> tuple[dict[str, CellState], list[str]]:
    """The states by name, and the runs that were started."""
    recorder = Recorder()
    states = run_cells(plan, folder, jobs=jobs, watcher=recorder)
    assert [state.cell for state in states] == plan.cells()
    return {state.cell.name: state for state in states}, recorder.started


def statuses(states) -> list[str]:
    return [state.status for state in states.values()]


def config_in(folder, name):
    return read_config(folder / "runs" / name / "config.yaml")


def test_every_cell_is_run_once_and_seeds_and_methods_can_be_added(tmp_path, pretended):
    states, started = compared(tmp_path)
    assert statuses(states) == ["done"] * 4
    assert started == [cell.name for cell in ONE.cells()]
    short = config_in(tmp_path, "short-0.5-seed0")
    assert (short.max_steps, short.keep) == (10 + 3 * 5, 1.0)  # from the rows of the data
    assert {config_in(tmp_path, name).cache for name in states} == {str(tmp_path / "cache")}
    states, started = compared(tmp_path)
    assert (statuses(states), started) == (["done"] * 4, [])
    _, started = compared(tmp_path, made_up_plan("el2n", "uncertain", seeds=[0, 1]))
    assert {"uncertain-0.5-seed0", "full-seed1"} <= set(started)
    assert "full-seed0" not in started


def test_a_run_that_fails_does_not_stop_the_others_and_is_tried_again(tmp_path, pretended):
    pretended |= {"el2n"}
    states, _ = compared(tmp_path)
    assert [name for name, state in states.items() if state.status == "failed"] == ["el2n-0.5-seed0"]
    assert states["el2n-0.5-seed0"].error == "no such model 'x'"
    pretended.clear()
    states, started = compared(tmp_path)
    assert (statuses(states), started) == (["done"] * 4, ["el2n-0.5-seed0"])


def test_without_any_finished_run_short_says_why_it_cannot_run(tmp_path, pretended):
    pretended |= {"full", "el2n", "random"}
    assert "number of training rows is not known" in compared(tmp_path)[0]["short-0.5-seed0"].error


def tolerant_plan(**changes):
    return made_up_plan({"tolerance": {"tolerance": 0.5}}, keeps=[], baselines=["full", "short"], **changes)


@pytest.mark.parametrize("jobs", [1, 3])
def test_the_short_of_a_tolerance_takes_the_steps_it_came_to(tmp_path, pretended, jobs):
    assert statuses(compared(tmp_path, tolerant_plan(), jobs)[0]) == ["done"] * 9
    for seed in (0, 1, 2):
        assert config_in(tmp_path, f"short_tolerance-0.5-seed{seed}").max_steps == 40  # of the made-up runs
    assert compared(tmp_path, tolerant_plan(), jobs)[1] == []  # options of finished runs are checked


def test_where_runs_find_their_epochs_a_short_takes_the_steps_they_came_to(tmp_path, pretended):
    found = made_up_plan(options={**OPTIONS, "epochs": "auto"}, seeds=[0, 1])
    assert statuses(compared(tmp_path, found, 2)[0]) == ["done"] * 8
    for seed in (0, 1):
        short = config_in(tmp_path, f"short-0.5-seed{seed}")
        assert (short.epochs, short.max_steps) == (MOST_EPOCHS, 40)  # of the made-up runs
        assert config_in(tmp_path, f"el2n-0.5-seed{seed}").epochs == "auto"
    assert compared(tmp_path, found, 2)[1] == []


@pytest.mark.parametrize("jobs", [1, 3])
@pytest.mark.parametrize(("steps", "runs"), [(25, 4), (31, 5)])  # 25 without a race
def test_the_short_of_a_method_that_has_not_raced_is_the_plain_one(tmp_path, pretended, monkeypatch, jobs, steps, runs):
    monkeypatch.setattr(run, "_followed_steps", lambda folder, cell: None if cell.follows is None else steps)
    processes, real = [], run.subprocess.Popen
    monkeypatch.setattr(run.subprocess, "Popen", lambda *args, **named: processes.append(1) or real(*args, **named))
    racing = made_up_plan("auto", seeds=[0], baselines=["full", "random", "short"])
    states, _ = compared(tmp_path, racing, jobs)
    assert statuses(states) == ["done"] * 5
    assert len(processes) == runs
    results = [states[f"{name}-0.5-seed0"].result for name in ("short", "short_auto")]
    assert (results[0] == results[1]) == (runs == 4)
    assert {state.jobs for state in states.values()} == {jobs}
    assert compared(tmp_path, racing, jobs)[1] == []  # the options of what was taken over are right


def test_a_short_is_not_run_where_the_tolerance_failed(tmp_path, pretended):
    pretended |= {"tolerance"}
    short = compared(tmp_path, tolerant_plan(seeds=[0]))[0]["short_tolerance-0.5-seed0"]
    assert short.status == "failed"
    assert "takes the steps of tolerance-0.5-seed0, which is not done" in (short.error or "")


def test_several_at_a_time_divide_the_threads(tmp_path, pretended, monkeypatch):
    threads, real = [], run.subprocess.Popen

    def popen(*args, **kwargs):
        threads.append(kwargs["env"].get("OMP_NUM_THREADS"))
        return real(*args, **kwargs)

    monkeypatch.setattr(run.subprocess, "Popen", popen)
    monkeypatch.setattr(run.os, "cpu_count", lambda: 8)
    assert statuses(compared(tmp_path, made_up_plan(), jobs=2)[0]) == ["done"] * 12
    assert set(threads) == {"4"}


def test_each_run_has_the_number_that_shared_the_machine(tmp_path, pretended):
    assert {state.jobs for state in compared(tmp_path, jobs=2)[0].values()} == {2}
    both, _ = compared(tmp_path, made_up_plan(seeds=[0, 1]))
    assert all(state.jobs == (2 if state.cell.seed == 0 else 1) for state in both.values())
    for note in (tmp_path / "cells").glob("*.json"):
        note.unlink()
    assert {state.jobs for state in compared(tmp_path)[0].values()} == {None}


def command(folder, jobs=1, cell=FULL):
    """The command that would run a cell now, and the number of jobs that is noted."""
    runner = run._Runner(ONE, folder, jobs, Recorder())
    return runner._command(cell, None), runner._noted_jobs(cell)


def begin(folder, cell=FULL):
    """A run that was killed after it had begun."""
    run_folder = folder / "runs" / cell.name
    run_folder.mkdir(parents=True)
    (run_folder / "config.yaml").write_text(ONE.config(cell, str(run_folder)).to_yaml())
    return run_folder


@pytest.mark.parametrize(("earlier", "now", "noted"), [(2, 1, 2), (1, 2, 2), (1, 1, 1), (None, 1, None)])
def test_a_resumed_run_keeps_the_largest_number_of_jobs(tmp_path, earlier, now, noted):
    if earlier is not None:
        command(tmp_path, earlier)
    begin(tmp_path)
    assert command(tmp_path, now)[1] == noted


def test_a_run_that_starts_over_has_the_number_of_jobs_of_now(tmp_path):
    assert [command(tmp_path, jobs)[1] for jobs in (2, 1)] == [2, 1]


@pytest.mark.parametrize("text", ["{", '{"schema": 1, "jobs": "one"}', '{"schema": 9, "jobs": 1}', "{}"])
def test_an_unreadable_note_is_no_number_of_jobs(tmp_path, text):
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "full-seed0.json").write_text(text)
    assert run._Runner(ONE, tmp_path, 1, Recorder())._noted_jobs(FULL) is None


def test_a_run_that_had_begun_is_resumed_and_one_that_had_not_starts_over(tmp_path):
    begun, crumbs = begin(tmp_path, FULL), tmp_path / "runs" / DIET.name
    crumbs.mkdir()
    (crumbs / ".datadiet-half.part").write_text("")
    (crumbs / ".lock").write_text("1")
    assert command(tmp_path, cell=FULL)[0][-2:] == ["--resume", str(begun)]
    assert command(tmp_path, cell=DIET)[0][-2] == "--config"
    (crumbs / "thesis.tex").write_text("")
    with pytest.raises(ArgumentError, match="is not empty; choose another"):
        command(tmp_path, cell=DIET)
    assert (crumbs / "thesis.tex").exists()


def test_runs_of_other_options_are_not_mixed(tmp_path, pretended):
    compared(tmp_path)
    with pytest.raises(ArgumentError, match=r"full-seed0 has epochs 4, now it would be 5\. Choose another folder"):
        compared(tmp_path, made_up_plan(seeds=[0], options={**OPTIONS, "epochs": 5}))


@pytest.mark.parametrize(("option", "value"), [("cache", None), ("energy", True)])
def test_options_that_change_nothing_of_a_run_may_differ(tmp_path, pretended, option, value):
    assert option in run.UNCHECKED
    compared(tmp_path)
    for file in (tmp_path / "runs").glob("*/config.yaml"):
        file.write_text(replace(read_config(file), **{option: value}).to_yaml())
    assert compared(tmp_path)[1] == []


def test_two_comparisons_do_not_share_a_folder(tmp_path, pretended):
    with (
        locked(tmp_path / run.LOCK, ""),
        pytest.raises(ArgumentError, match=rf"another comparison is running in .*\(process {os.getpid()}\)"),
    ):
        compared(tmp_path)
    (tmp_path / run.LOCK).write_text("1")  # left by a process that was killed
    assert len(compared(tmp_path)[0]) == 4
    assert not (tmp_path / run.LOCK).exists()


def test_an_interruption_ends_the_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(run._Runner, "_command", lambda *_: SLEEP)
    runner = run._Runner(ONE, tmp_path, 1, Recorder())
    thread = threading.Thread(target=runner.run, args=(FULL, None))
    thread.start()
    while not runner._processes:
        thread.join(0.01)
    runner.stop()
    thread.join(10)
    assert not thread.is_alive()
    assert runner._processes[0].returncode != 0


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_comparison_that_is_terminated_leaves_no_process_behind(tmp_path, monkeypatch, jobs):
    processes, real = [], run.subprocess.Popen

    def popen(*args, **kwargs):
        processes.append(real(SLEEP, **kwargs))
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()  # while it is waited for
        return processes[-1]

    monkeypatch.setattr(run.subprocess, "Popen", popen)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        compared(tmp_path, jobs=jobs)
    assert processes
    assert all(process.wait(10) == -signal.SIGTERM for process in processes)
    assert signal.getsignal(signal.SIGTERM) is before
    assert not (tmp_path / run.LOCK).exists()


def test_a_run_ends_with_the_comparison_that_started_it():
    """However that ends: its end of the pipe closes."""
    code = "import threading, time; from datadiet import cli; threading.Thread(target=cli._end_with_stdin).start(); "
    arguments = [sys.executable, "-c", f"{code}print(1, flush=True); time.sleep(60)"]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline()
        process.stdin.close()
        assert process.wait(10) == -signal.SIGTERM


def test_a_run_that_was_killed_says_so():
    assert run._error_in("training ...\n", -9) == "ended by signal 9"


def test_a_comparison_is_written_and_read(tmp_path):
    comparison = {"schema": 1, "methods": [], "runs": []}
    write_comparison(tmp_path, comparison)
    assert read_comparison(tmp_path) == comparison
    assert json.loads((tmp_path / "comparison.json").read_text()) == {**comparison, "crc32": "9ec08edc"}
    with pytest.raises(DataError, match="holds no comparison"):
        read_comparison(tmp_path / "nowhere")
    (tmp_path / "comparison.json").write_text("{")
    with pytest.raises(DataError, match="not valid JSON"):
        read_comparison(tmp_path)
