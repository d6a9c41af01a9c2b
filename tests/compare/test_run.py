from __future__ import annotations

import os
import signal
import sys
import threading
from dataclasses import replace

import pytest

from datadiet.compare import run
from datadiet.compare.run import MadeWith, run_cells, write_comparison
from datadiet.config import read_config
from datadiet.errors import ArgumentError
from toys import made_up_plan


class Heard:
    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []
        self.lock = threading.Lock()

    def changed(self, state) -> None:
        with self.lock:
            self.said.append((state.cell.name, state.status))


def test_every_cell_is_run_once(tmp_path, pretended):
    heard, plan = Heard(), made_up_plan(seeds=[0])
    states = run_cells(plan, tmp_path, watcher=heard)
    assert [state.status for state in states] == ["done"] * 4
    assert [name for name, status in heard.said if status == "running"] == [cell.name for cell in plan.cells()]
    again = Heard()
    assert [state.status for state in run_cells(plan, tmp_path, watcher=again)] == ["done"] * 4
    assert not [name for name, status in again.said if status == "running"]


def test_short_gets_its_steps_from_the_rows_of_the_data(tmp_path, pretended):
    run_cells(made_up_plan(seeds=[0]), tmp_path, watcher=Heard())
    config = run.read_config(tmp_path / "runs" / "short-0.5-seed0" / "config.yaml")
    assert (config.max_steps, config.keep) == (10 + 3 * 5, 1.0)


def test_a_run_that_fails_does_not_stop_the_others_and_is_tried_again(tmp_path, pretended):
    pretended |= {"el2n"}
    states = {state.cell.name: state for state in run_cells(made_up_plan(seeds=[0]), tmp_path, watcher=Heard())}
    assert [name for name, state in states.items() if state.status == "failed"] == ["el2n-0.5-seed0"]
    assert states["el2n-0.5-seed0"].error == "no such model 'x'"
    pretended.clear()
    heard = Heard()
    assert all(state.status == "done" for state in run_cells(made_up_plan(seeds=[0]), tmp_path, watcher=heard))
    assert [name for name, status in heard.said if status == "running"] == ["el2n-0.5-seed0"]


def test_without_any_finished_run_short_says_why_it_cannot_run(tmp_path, pretended):
    pretended |= {"full", "el2n", "random"}
    states = {state.cell.method: state for state in run_cells(made_up_plan(seeds=[0]), tmp_path, watcher=Heard())}
    assert "number of training rows is not known" in states["short"].error


def tolerant_plan(**changes):
    return made_up_plan({"tolerance": {"tolerance": 0.5}}, keeps=[], baselines=["full", "short"], **changes)


@pytest.mark.parametrize("jobs", [1, 3])
def test_the_short_of_a_tolerance_takes_the_steps_it_came_to(tmp_path, pretended, jobs):
    states = run_cells(tolerant_plan(), tmp_path, jobs=jobs, watcher=Heard())
    assert [state.status for state in states] == ["done"] * 9
    for seed in (0, 1, 2):
        config = read_config(tmp_path / "runs" / f"short_tolerance-0.5-seed{seed}" / "config.yaml")
        assert config.max_steps == 40  # what the made-up runs took
    again = Heard()
    run_cells(tolerant_plan(), tmp_path, jobs=jobs, watcher=again)  # options of finished runs are looked at


def test_a_short_is_not_run_where_the_tolerance_failed(tmp_path, pretended):
    pretended |= {"tolerance"}
    states = {state.cell.arm: state for state in run_cells(tolerant_plan(seeds=[0]), tmp_path, watcher=Heard())}
    assert states["short_tolerance-0.5"].status == "failed"
    assert "takes the steps of tolerance-0.5-seed0, which is not done" in (states["short_tolerance-0.5"].error or "")


def test_several_at_a_time_divide_the_threads(tmp_path, pretended, monkeypatch):
    seen = []
    real = run.subprocess.Popen

    def popen(*args, **kwargs):
        seen.append(kwargs["env"].get("OMP_NUM_THREADS"))
        return real(*args, **kwargs)

    monkeypatch.setattr(run.subprocess, "Popen", popen)
    monkeypatch.setattr(run.os, "cpu_count", lambda: 8)
    states = run_cells(made_up_plan(), tmp_path, jobs=2, watcher=Heard())
    assert [state.status for state in states] == ["done"] * 12
    assert set(seen) == {"4"}


def jobs_of(states) -> dict[str, int | None]:
    return {state.cell.name: state.jobs for state in states}


def test_each_run_knows_how_many_shared_the_machine(tmp_path, pretended):
    first = jobs_of(run_cells(made_up_plan(seeds=[0]), tmp_path, jobs=2, watcher=Heard()))
    assert set(first.values()) == {2}
    both = jobs_of(run_cells(made_up_plan(seeds=[0, 1]), tmp_path, jobs=1, watcher=Heard()))
    assert both == {cell.name: 2 if cell.seed == 0 else 1 for cell in made_up_plan(seeds=[0, 1]).cells()}


@pytest.mark.parametrize(("earlier", "now", "found"), [(2, 1, 2), (1, 2, 2), (1, 1, 1), (None, 1, None)])
def test_a_resumed_run_keeps_the_worst(tmp_path, earlier, now, found):
    plan = made_up_plan(seeds=[0])
    cell = plan.cells()[0]
    folder = tmp_path / "runs" / cell.name
    if earlier is not None:
        run._Runner(plan, tmp_path, earlier, Heard())._command(cell, None)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(plan.config(cell, str(folder)).to_yaml())
    run._Runner(plan, tmp_path, now, Heard())._command(cell, None)
    assert MadeWith(tmp_path, 1).known(cell.name) == found


def test_a_run_that_starts_over_forgets_how_it_was_made(tmp_path):
    plan = made_up_plan(seeds=[0])
    for jobs in (2, 1):
        run._Runner(plan, tmp_path, jobs, Heard())._command(plan.cells()[0], None)
    assert MadeWith(tmp_path, 1).known(plan.cells()[0].name) == 1


@pytest.mark.parametrize(("said", "found"), [(True, 1), (False, None), (None, None)])
def test_runs_without_a_note_are_believed_what_their_comparison_said(tmp_path, pretended, said, found):
    plan = made_up_plan(seeds=[0])
    run_cells(plan, tmp_path, watcher=Heard())
    for note in (tmp_path / "cells").glob("*.json"):
        note.unlink()
    if said is not None:
        runs = [{"name": cell.name, "status": "done"} for cell in plan.cells()]
        write_comparison(tmp_path, {"schema": 1, "comparable_times": said, "runs": runs, "methods": []})
    assert set(jobs_of(run_cells(plan, tmp_path, watcher=Heard())).values()) == {found}


@pytest.mark.parametrize("text", ["{", '{"schema": 1, "jobs": "one"}', '{"schema": 9, "jobs": 1}', "{}"])
def test_a_note_that_makes_no_sense_tells_nothing(tmp_path, text):
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "a-seed0.json").write_text(text)
    assert MadeWith(tmp_path, 1).known("a-seed0") is None


def test_seeds_and_methods_can_be_added_later(tmp_path, pretended):
    run_cells(made_up_plan(seeds=[0]), tmp_path, watcher=Heard())
    heard = Heard()
    run_cells(made_up_plan("el2n", "uncertain", seeds=[0, 1]), tmp_path, watcher=heard)
    ran = [name for name, status in heard.said if status == "running"]
    assert "uncertain-0.5-seed0" in ran
    assert "full-seed1" in ran
    assert "full-seed0" not in ran


def test_runs_of_other_options_are_not_mixed(tmp_path, pretended):
    run_cells(made_up_plan(seeds=[0]), tmp_path, watcher=Heard())
    other = made_up_plan(
        seeds=[0], options={"data": "made-up", "task": "classification", "epochs": 5, "batch_size": 10}
    )
    with pytest.raises(ArgumentError, match=r"full-seed0 has epochs 4, now it would be 5\. Choose another folder"):
        run_cells(other, tmp_path, watcher=Heard())


@pytest.mark.parametrize("option", run.BESIDE)
def test_options_that_change_nothing_of_a_run_may_differ(tmp_path, pretended, option):
    """As they do from runs of an earlier version, and from runs whose energy was not measured."""
    plan = made_up_plan(seeds=[0])
    run_cells(plan, tmp_path, watcher=Heard())
    for file in (tmp_path / "runs").glob("*/config.yaml"):
        config = replace(run.read_config(file), **{option: {"cache": None, "energy": True}[option]})
        file.write_text(config.to_yaml())
    heard = Heard()
    run_cells(plan, tmp_path, watcher=heard)
    assert not [name for name, status in heard.said if status == "running"]


def test_runs_share_a_cache(tmp_path, pretended):
    run_cells(made_up_plan(seeds=[0]), tmp_path, watcher=Heard())
    caches = {run.read_config(file).cache for file in (tmp_path / "runs").glob("*/config.yaml")}
    assert caches == {str(tmp_path / "cache")}


def test_two_comparisons_do_not_share_a_folder(tmp_path, pretended):
    (tmp_path / run.LOCK).write_text(str(os.getpid()))
    with pytest.raises(ArgumentError, match="another comparison is running"):
        run_cells(made_up_plan(seeds=[0]), tmp_path, watcher=Heard())
    (tmp_path / run.LOCK).write_text("999999999")  # of a process that was killed
    assert len(run_cells(made_up_plan(seeds=[0]), tmp_path, watcher=Heard())) == 4
    assert not (tmp_path / run.LOCK).exists()


def test_a_run_that_had_begun_is_resumed_and_one_that_had_not_starts_over(tmp_path):
    plan = made_up_plan(seeds=[0])
    full, diet = plan.cells()[:2]
    begun, crumbs = tmp_path / "runs" / full.name, tmp_path / "runs" / diet.name
    for folder in (begun, crumbs):
        folder.mkdir(parents=True)
    (begun / "config.yaml").write_text(plan.config(full, str(begun)).to_yaml())
    (crumbs / "half.part").write_text("")
    runner = run._Runner(plan, tmp_path, 1, Heard())
    assert runner._command(full, None)[-2:] == ["--resume", str(begun)]
    assert runner._command(diet, None)[-2] == "--config"
    assert not crumbs.exists()


def test_an_interruption_ends_the_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(run._Runner, "_command", lambda *_: [sys.executable, "-c", "import time; time.sleep(60)"])
    runner = run._Runner(made_up_plan(seeds=[0]), tmp_path, 1, Heard())
    thread = threading.Thread(target=runner.run, args=(made_up_plan().cells()[0], None))
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
        processes.append(real([sys.executable, "-c", "import time; time.sleep(60)"], **kwargs))
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()  # while it is waited for
        return processes[-1]

    monkeypatch.setattr(run.subprocess, "Popen", popen)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        run_cells(made_up_plan(seeds=[0]), tmp_path, jobs=jobs, watcher=Heard())
    assert processes
    assert all(process.wait(10) == -signal.SIGTERM for process in processes)
    assert signal.getsignal(signal.SIGTERM) is before
    assert not (tmp_path / run.LOCK).exists()


def test_a_run_that_was_killed_says_so():
    assert run._error_in("training ...\n", -9) == "ended by signal 9"
