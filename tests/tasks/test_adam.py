"""The state of Adam in a checkpoint: its next step is that of torch's optimizer; what cannot be used."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from datadiet.errors import DataError
from datadiet.jobs.finetune import finetune
from datadiet.store.run_folder import checkpoints_of
from datadiet.tasks.adam import OPTIMIZER, adam_state
from datadiet.tasks.loading import load_saved
from toys import tiny_classifier, toy_config


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("run")
    finetune(toy_config(folder, n=24, keep=1.0, keep_checkpoints=True, epochs=2))
    return checkpoints_of(folder / "run")


def test_the_next_step_is_that_of_the_optimizer(checkpoints):
    model: Any = load_saved(checkpoints[-1])
    state = adam_state(checkpoints[-1], model)
    assert state is not None
    assert (state.steps, state.betas, state.first_rate) == (6, (0.9, 0.999), 0.01)
    assert 0 <= state.rate < state.first_rate
    named = dict(model.named_parameters())
    assert set(state.first) == set(named)
    torch.manual_seed(0)
    gradient = {name: torch.randn_like(parameter) for name, parameter in named.items()}
    moved = state.step(gradient, {name: name for name in named})
    # the optimizer of torch, from the same file, in the order that is claimed
    before = {name: parameter.detach().clone() for name, parameter in named.items()}
    saved = torch.load(checkpoints[-1] / OPTIMIZER, weights_only=True)
    sizes = [len(group["params"]) for group in saved["param_groups"]]
    order = list(state.first)
    groups = [{"params": [named[name] for name in part]} for part in (order[: sizes[0]], order[sizes[0] :])]
    optimizer = torch.optim.AdamW(groups, lr=1.0)
    optimizer.load_state_dict(saved)
    for group in optimizer.param_groups:
        group["lr"], group["weight_decay"] = 1.0, 0.0
    for name, parameter in named.items():
        parameter.grad = gradient[name]
    optimizer.step()
    for name, parameter in named.items():
        assert_close(before[name] - parameter.detach(), moved[name], rtol=1e-3, atol=1e-5)


def test_the_order_is_that_of_the_trainer(checkpoints):
    """A weight that no example has moved, an embedding of a letter that does not occur, has no moment."""
    model: Any = load_saved(checkpoints[-1])
    state = adam_state(checkpoints[-1], model)
    assert state is not None
    words = state.second["bert.embeddings.word_embeddings.weight"]
    assert 0 < int((words.abs().sum(1) == 0).sum()) < len(words)


def test_what_cannot_be_used(checkpoints, tmp_path):
    model: Any = load_saved(checkpoints[-1])
    assert adam_state(tmp_path, model) is None
    (tmp_path / OPTIMIZER).write_bytes(b"not a file of torch")
    with pytest.raises(DataError, match=r"optimizer\.pt holds no state of Adam .*take direction=plain"):
        adam_state(tmp_path, model)
    torch.save({"param_groups": [{"params": [0], "lr": 0.1}], "state": {0: {}}}, tmp_path / OPTIMIZER)
    with pytest.raises(DataError, match="holds no state of Adam"):
        adam_state(tmp_path, model)
    shutil.copy(checkpoints[0] / OPTIMIZER, tmp_path / OPTIMIZER)
    with pytest.raises(DataError, match="belongs to other weights than those of"):
        adam_state(tmp_path, tiny_classifier(2, hidden=8))
