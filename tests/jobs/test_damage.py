"""Each file of a run, damaged in each way: right, refused with its name, or exact after falling back."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from datadiet.errors import ArgumentError, DataError, UserError
from datadiet.jobs.finetune import _to_resume, finetune, resume_run
from datadiet.jobs.predict import PredictConfig, predict
from datadiet.reporting import run_page
from datadiet.store.dynamics import read_rounds
from datadiet.store.run_folder import read_result
from datadiet.store.tables import read_table
from toys import Heard, Killed, plans_of, scores_of, toy_config, weights_of

WAYS = ("cut", "missing", "flipped", "empty", "of another run")


def damage(file: Path, way: str, other: Path) -> bool:
    """Damage a file; False where that changes nothing."""
    content, places = file.read_bytes(), random.Random(f"{way} {file.name}")
    file.unlink()
    if way == "missing":
        return True
    if way == "of another run":
        if not other.is_file() or other.read_bytes() == content:
            return False
        changed = other.read_bytes()
    else:
        flipped = bytearray(content)
        flipped[places.randrange(len(content))] ^= 1 << places.randrange(7)
        changed = {"cut": content[: len(content) // 2], "flipped": bytes(flipped), "empty": b""}[way]
    file.write_bytes(changed)
    return changed != content


def cells(run: Path, other: Path, to: Path) -> Any:
    """A damaged copy of a run for each file and way, and the file in it."""
    for file in sorted(file.relative_to(run) for file in run.rglob("*") if file.is_file()):
        for way in WAYS:
            shutil.rmtree(to, ignore_errors=True)
            shutil.copytree(run, to)
            if damage(to / file, way, other / file):
                yield f"{file} {way}", to, to / file


def kill(config: Any) -> Path:
    """A run that is killed inside its last epoch: checkpoints after steps 9 and 12 count 1 and 2 parts of scores/."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datadiet.jobs.finetune.REPORT_EVERY_S", 0.0)
        with pytest.raises(Killed):
            finetune(config, listener=Heard(die_at=14))
    return Path(config.output)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("runs")
    config = toy_config(home, dropout=0.1)
    finetune(config)
    finetune(replace(config, seed=1, output=str(home / "other")))
    killed = kill(replace(config, output=str(home / "killed")))
    other = kill(replace(config, seed=1, output=str(home / "killed other")))
    return {"whole": home / "run", "other": home / "other", "killed": killed, "killed other": other}


def test_a_damaged_run_is_resumed_right_or_names_the_file(runs: dict[str, Path], tmp_path: Path) -> None:
    unnamed: list[str] = []
    used = {"checkpoint-12": 0, "checkpoint-9": 0, "refused": 0}
    for cell, folder, file in cells(runs["killed"], runs["killed other"], tmp_path / "run"):
        listener = Heard()
        try:
            _, _, checkpoint, _ = _to_resume(folder, listener)
        except UserError as error:
            unnamed += [] if file.name in str(error) else [f"{cell}: {error}"]
            used["refused"] += 1
            continue
        assert checkpoint is not None, cell
        assert file.parent != checkpoint, f"{cell}: went on from it"
        if checkpoint.name == "checkpoint-9":  # the later one was damaged, or a part of the tables that only it counts
            assert file.parent.name in ("checkpoint-12", "scores", "plans"), cell
            assert any(file.name in note or "diet_state" in str(file) for note in listener.notes), cell
        used[checkpoint.name] += 1
    assert not unnamed
    assert min(used.values()) > 10, used


@pytest.mark.cpu  # bit-identical only there
@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("checkpoints/checkpoint-12/model.safetensors", "flipped"),
        ("checkpoints/checkpoint-12/optimizer.pt", "missing"),
        ("checkpoints/checkpoint-12/diet_state.json", "empty"),
        ("scores/part-00001.parquet", "cut"),
    ],
)
def test_falling_back_is_exact(runs: dict[str, Path], tmp_path: Path, name: str, way: str) -> None:
    folder = shutil.copytree(runs["killed"], tmp_path / "run")
    assert damage(folder / name, way, folder)
    listener = Heard()
    resume_run(folder, listener=listener)
    assert any(name in note and "going on from checkpoint-9" in note for note in listener.notes)
    ours, theirs = weights_of(folder), weights_of(runs["whole"])
    assert all(torch.equal(ours[weight], theirs[weight]) for weight in theirs)
    assert scores_of(folder).equals(scores_of(runs["whole"]))
    assert plans_of(folder) == plans_of(runs["whole"])


def use(folder: Path) -> tuple[Any, ...]:
    """All that is read of a finished run."""
    predicted = predict(PredictConfig(text="alpha beta", model=folder))
    result = read_result(folder)
    guard, tested = run_page.read_guard(folder), run_page.tested_predictions(folder, result)
    rounds = read_rounds(folder)
    frames = read_table(folder / "plans").to_pandas(), tested
    return (
        predicted.lines, result["metrics"], guard and (guard.noise, guard.suspects), rounds.epochs.tolist(),
        [values.tobytes() for values in rounds.columns.values()], [frame.to_csv() for frame in frames],
    )  # fmt: skip


def test_a_damaged_finished_run_is_read_right_or_names_the_file(runs: dict[str, Path], tmp_path: Path) -> None:
    expected, refused, right = use(runs["whole"]), [], []
    for cell, folder, file in cells(runs["whole"], runs["other"], tmp_path / "run"):
        try:
            found = use(folder)
        except UserError as error:
            refused.append("" if file.name in str(error) or str(file.parent) in str(error) else f"{cell}: {error}")
        else:
            assert found == expected, cell
            right.append(cell)
    assert len(refused) > 40
    assert not any(refused)
    assert {cell.split()[0] for cell in right} <= {"model/README.md", "suspects.parquet", "noise.json", "config.yaml"}


# ---- options of the run


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        (
            "keep",
            0.25,
            r"config\.yaml is damaged or was changed since the run began: keep must be 0\.5, .* got 0\.25",
        ),
        ("warmup_epochs", 2, "warmup_epochs must be 1, .* got 2"),
        ("select", "random", "select must be 'hardest', .* got 'random'"),
        ("score", "margin", "score must be 'el2n', .* got 'margin'"),
        ("offset", 0.0, "offset must be None, .* got 0.0"),
        ("seed", 1, "seed must be 0, .* got 1"),
        ("learning_rate", 0.5, "learning_rate must be 0.01, .* got 0.5"),
        ("batch_size", 16, "batch_size x gradient_accumulation must be 8, .* got 16"),
        ("epochs", "auto", "epochs must be 4, .* got 'auto'"),
    ],
)
def test_options_that_the_checkpoints_depend_on(
    runs: dict[str, Path], tmp_path: Path, option: str, value: Any, message: str
) -> None:
    folder = shutil.copytree(runs["killed"], tmp_path / "run")
    edit(folder, **{option: value})
    with pytest.raises(ArgumentError, match=message):
        resume_run(folder)


def edit(folder: Path, **options: Any) -> None:
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, **options}))


def test_more_epochs_and_smaller_batches_go_on(runs: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(runs["killed"], tmp_path / "run")
    edit(folder, epochs=6, batch_size=4, gradient_accumulation=2)
    listener = Heard()
    result = resume_run(folder, listener=listener)
    assert "epochs is 6 from here on; it was 4." in listener.notes
    assert [line["steps"] for line in result["epochs"]] == [6, 3, 3, 3, 3, 3]
    assert {epoch: plans_of(folder)[epoch] for epoch in (0, 1, 2, 3)} == plans_of(runs["whole"])


def test_an_edited_config_is_not_taken_up_without_a_checkpoint(runs: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(runs["killed"], tmp_path / "run")
    shutil.rmtree(folder / "checkpoints")
    edit(folder, keep=0.25)
    with pytest.raises(
        DataError, match=r"config.yaml is damaged or was changed since the run began, .* start it again"
    ):
        resume_run(folder)


def test_where_every_checkpoint_is_damaged_nothing_is_removed(runs: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(runs["killed"], tmp_path / "run")
    for weights in folder.glob("checkpoints/*/model.safetensors"):
        weights.write_bytes(b"")
    with pytest.raises(
        DataError, match=r"(?s)checkpoint-12/model.*checkpoint-9/model.*no checkpoint of .* can be used"
    ):
        resume_run(folder)
    assert (folder / "scores" / "part-00001.parquet").is_file()
