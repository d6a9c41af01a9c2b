from __future__ import annotations

import numpy as np
import pytest
import torch

from datadiet.diet.diet import Diet
from datadiet.errors import ArgumentError
from datadiet.training.loop import epochs
from datadiet.types import HeadSignals, Signals

N, BATCH = 40, 8


def toy(seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(N, 5, generator=generator)
    return [{"x": x[row], "labels": (x[row].sum() > 0).long()} for row in range(N)]


def train(diet, count=4, *, start=0, state=None, model=None, stop=None, **options):
    torch.manual_seed(0)
    data = toy()
    model = torch.nn.Linear(5, 2) if model is None else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    plans = {}
    for epoch in epochs(diet, count, num_examples=N, batch_size=BATCH, start=start, state=state, **options):
        plans[epoch.epoch] = epoch.plan.rows
        for batch in epoch.loader(data, batch_size=BATCH):
            assert torch.equal(batch.inputs["x"], torch.stack([data[row]["x"] for row in batch.rows.tolist()]))
            logits = model(batch.inputs["x"])
            loss = torch.nn.functional.cross_entropy(logits, batch.labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            epoch.observe(batch.rows, logits, batch.labels)
        if epoch.epoch == stop:
            break
    return plans, model


def test_a_loop_trains_on_the_plan():
    diet = Diet(keep=0.5, refresh_every=2)
    plans, _ = train(diet)
    assert [len(plans[epoch]) for epoch in range(4)] == [40, 16, 16, 16]  # 20, down to full batches of 8
    history = diet.history.to_pandas()
    warm = history[history["epoch"] == 0].set_index("row")["el2n"]
    assert set(plans[1]) == set(warm.nlargest(16).index)
    assert len(history) == 40 + 3 * 16


def test_the_same_seed_gives_the_same_run_and_another_one_does_not():
    first, second, other = (train(Diet(select="random", seed=seed))[0] for seed in (1, 1, 2))
    assert all(np.array_equal(first[epoch], second[epoch]) for epoch in range(4))
    assert not np.array_equal(first[1], other[1])


def test_a_loop_goes_on_from_its_state(tmp_path):
    whole, model = train(Diet(keep=0.5, refresh_every=1))
    stopped = Diet(keep=0.5, refresh_every=1)
    _, half = train(stopped, stop=1)
    resumed, half = train(Diet(keep=0.5, refresh_every=1), start=2, state=stopped.state_dict(), model=half)
    assert np.array_equal(resumed[2], whole[2])
    assert np.array_equal(resumed[3], whole[3])
    assert torch.equal(half.weight, model.weight)


def test_passes_need_signals_and_get_rows():
    with pytest.raises(ArgumentError, match="needs signals="):
        next(epochs(Diet(rescore="all"), 3, num_examples=N))
    asked = []

    def signals(rows):
        asked.append(rows)
        return Signals({"label": HeadSignals(torch.zeros(len(rows), 2), torch.zeros(len(rows), dtype=torch.long))})

    diet = Diet(rescore="dropped", refresh_every=1, keep=0.5)
    train(diet, signals=signals)
    assert [len(rows) for rows in asked] == [24, 24]  # nothing after the warm-up, then who did not train
    passed = diet.history.to_pandas().query("source == 'pass'")
    assert passed["el2n"].to_numpy() == pytest.approx(np.sqrt(0.5))


def test_tokens_are_masked_where_the_label_says_so():
    diet = Diet(refresh_every=1)
    for epoch in epochs(diet, 2, num_examples=2):
        logits = torch.zeros(1, 3, 2)
        for row in epoch.plan.rows:
            epoch.observe(torch.tensor([row]), logits, torch.tensor([[0, -100, 1]]))
    assert diet.history.to_pandas()["el2n"].to_numpy() == pytest.approx(1.0)  # sqrt(0.5 + 0.5), two tokens count


def test_batches_without_labels_say_so():
    from datadiet.training.loop import RowBatch

    with pytest.raises(ArgumentError, match="no labels; it has x"):
        _ = RowBatch({"x": torch.zeros(1)}, torch.tensor([0])).labels
