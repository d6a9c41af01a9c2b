"""Token pruning inside the Trainer: which labels train, what the loss is divided by, resume, references."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from torch.nn import functional

from datadiet.diet import race
from datadiet.diet.diet import Diet
from datadiet.errors import ArgumentError
from datadiet.scores.tokens import token_signals
from datadiet.selectors.q_tuning import MISCONCEPTION, quadrant_rows
from datadiet.selectors.token_rules import SmoothedTokens, TokenRule, smoothed
from datadiet.training.sampler import ROW_KEY
from datadiet.training.tokens import (
    LENGTHS_KEY,
    TOKEN_KEY,
    Pruned,
    TokenPruner,
    TokenReference,
    Trained,
    token_reference,
    without_tokens,
)
from datadiet.training.trainer import DietTrainer
from datadiet.types import Signals
from toys import weights

VOCABULARY, N = 40, 24
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}


def tiny_llama(seed: int = 0, **changes: Any) -> Any:
    torch.manual_seed(seed)
    settings = {"vocab_size": VOCABULARY, "max_position_embeddings": 64, "pad_token_id": 0, **SIZES, **changes}
    return hf.LlamaForCausalLM(hf.LlamaConfig(**settings))


def made_up(count: int = N, seed: int = 0) -> list[dict[str, list[int]]]:
    """Prompts of 2 to 4 tokens, answers of 3 to 9."""
    generator = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        prompt, answer = (
            generator.integers(1, VOCABULARY, generator.integers(*ends)).tolist() for ends in ((2, 5), (3, 10))
        )
        rows.append({"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer})
    return rows


def collate(items: list[dict[str, list[int]]], side: str = "right") -> dict[str, torch.Tensor]:
    longest = max(len(item["input_ids"]) for item in items)

    def padded(name: str, value: int) -> torch.Tensor:
        lines = []
        for item in items:
            gap = [value] * (longest - len(item[name]))
            lines.append(item[name] + gap if side == "right" else gap + item[name])
        return torch.tensor(lines)

    ones = [{"attention_mask": [1] * len(item["input_ids"])} for item in items]
    mask = [[*([0] * (longest - len(one["attention_mask"]))), *one["attention_mask"]] for one in ones]
    mask = [line[::-1] for line in mask] if side == "right" else mask
    return {"input_ids": padded("input_ids", 0), "labels": padded("labels", -100), "attention_mask": torch.tensor(mask)}


def read(outputs: Any, batch: Any) -> Signals:
    return Signals({"tokens": token_signals(outputs.logits, batch["labels"])})


class Recording(DietTrainer):
    """Keeps the batches of every step as the model gets them."""

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        self.batches = [*getattr(self, "batches", []), (self.current_epoch.epoch, dict(inputs), kwargs)]
        return super().compute_loss(model, inputs, *args, **kwargs)


def trainer_of(folder: Path, tokens: str | None, *, resume: str | None = None, **options: Any) -> Any:
    own = ("reference", "signals", "kind", "row_weights", "train_dataset", "eval_dataset")
    extra = {name: options.pop(name) for name in own if name in options}
    settings = {
        "num_train_epochs": 3, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "report_to": "none",
        "save_strategy": "no", "use_cpu": True, "disable_tqdm": True, "seed": 3, "dataloader_pin_memory": False,
        "gradient_accumulation_steps": 2, "logging_steps": 1,
    }  # fmt: skip
    diet = Diet(tokens=tokens, **{"keep": 1.0, **options.pop("diet", {})})
    kind = extra.pop("kind", Recording)
    trainer = kind(
        model=options.pop("model", None) or tiny_llama(),
        args=hf.TrainingArguments(str(folder), **{**settings, **options}),
        data_collator=collate,
        diet=diet,
        **{"signals": read, "train_dataset": made_up(), **extra},
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def trained_share(trainer: Any, epoch: int) -> list[tuple[int, int]]:
    """Answer tokens and tokens that trained, of each row of the batches of an epoch."""
    counts = []
    for of, batch, _ in trainer.batches:
        if of == epoch:
            counts += [(int((line != -100).sum()),) for line in batch["labels"]]
    return counts


def test_after_the_warm_up_the_share_of_each_answer_trains(tmp_path):
    trainer = trainer_of(tmp_path, "q_tuning(keep=0.5, calibration=false)")
    whole = sorted(len([label for label in row["labels"] if label != -100]) for row in made_up())
    of_epochs = [sorted(count for (count,) in trained_share(trainer, epoch)) for epoch in range(3)]
    assert of_epochs[0] == whole
    assert of_epochs[1] == of_epochs[2] == sorted(-(-count // 2) for count in whole)
    found = trainer.tokens.summary()
    assert found == {
        "seen": 3 * sum(whole), "trained": sum(map(sum, of_epochs)), "action": "mask",
        "share": sum(map(sum, of_epochs)) / (3 * sum(whole)),
    }  # fmt: skip
    cost = trainer.ledger.snapshot()  # masking saves nothing of the passes
    assert cost.tokens_backward == 3 * sum(len(row["input_ids"]) for row in made_up())
    assert cost.examples_forward == cost.examples_backward == 3 * N


def test_the_loss_is_divided_by_what_trains_over_the_whole_accumulation(tmp_path):
    trainer = trainer_of(tmp_path, "random_tokens(keep=0.5)")
    of_last = [(batch, kwargs["num_items_in_batch"]) for epoch, batch, kwargs in trainer.batches if epoch == 2]
    for (one, items), (other, same) in zip(of_last[::2], of_last[1::2], strict=True):
        assert int(items) == int(same) == sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in (one, other))


@pytest.mark.cpu
def test_a_run_without_a_rule_is_the_plain_trainer(tmp_path):
    plain = hf.Trainer(
        model=tiny_llama(), args=trainer_of(tmp_path / "a", None).args, train_dataset=made_up(), data_collator=collate
    )
    plain.train()
    ours = trainer_of(tmp_path / "b", None)
    assert torch.equal(weights(plain.model), weights(ours.model))


def pruner(rule: TokenRule, batch: Any, rows: int, model: Any) -> TokenPruner:
    """After one epoch on one batch."""
    made = TokenPruner(rule, rows, seed=0, first=1)
    whole = made.prune(batch)
    pruned, inputs = without_tokens(whole)
    outputs = model(**{name: part for name, part in inputs.items() if name not in (ROW_KEY, LENGTHS_KEY)})
    assert pruned.kept.all()
    made.observe(batch[ROW_KEY], read(outputs, inputs), pruned)
    made.decide(1)
    return made


def gradients(model: Any, loss: torch.Tensor) -> torch.Tensor:
    model.zero_grad()
    loss.backward()
    return torch.cat([part.grad.flatten() for part in model.parameters() if part.grad is not None])


@pytest.mark.proves("q_tuning", kind="tokens", by="definition")
@pytest.mark.parametrize("side", ["right", "left"])
def test_mask_has_the_gradient_of_the_loss_over_the_kept_tokens(side):
    model, items = tiny_llama(), made_up(6)
    batch = {**collate(items, side), ROW_KEY: torch.arange(6)}
    rule = SmoothedTokens(keep=0.5, lam=0.0, calibration=False)
    done = pruner(rule, batch, 6, model).prune(batch)
    pruned, inputs = without_tokens(done)
    inputs.pop(ROW_KEY)
    found = gradients(model, model(**inputs, num_items_in_batch=int(pruned.kept.sum())).loss)
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    losses = []
    for row in range(6):  # by hand: of each answer the half with the lowest losses
        places = (batch["labels"][row] != -100).nonzero().flatten()
        nll = functional.cross_entropy(logits[row, places - 1], batch["labels"][row, places], reduction="none")
        count = -(-len(places) // 2)
        losses.append(nll[nll.detach().half().argsort(stable=True)[:count]])
    by_hand = torch.cat(losses)
    assert len(by_hand) == pruned.kept.sum()
    torch.testing.assert_close(found, gradients(model, by_hand.mean()), rtol=1e-4, atol=1e-6)


def test_drop_leaves_the_other_tokens_at_their_places():
    model, items = tiny_llama(), made_up(5)
    for side in ("right", "left"):
        batch = {**collate(items, side), ROW_KEY: torch.arange(5)}
        done = pruner(SmoothedTokens(keep=0.5, calibration=False, action="drop"), batch, 5, model).prune(batch)
        pruned, inputs = without_tokens(done)
        assert inputs["input_ids"].shape[1] < batch["input_ids"].shape[1]
        ends = np.cumsum(pruned.counts)[:-1]
        for row, kept in enumerate(np.split(pruned.kept, ends)):
            tokens, prompt = items[row]["input_ids"], len(items[row]["input_ids"]) - len(kept)
            stays = [*range(prompt), *(prompt + np.flatnonzero(kept))]
            real = inputs["attention_mask"][row] == 1
            assert inputs["input_ids"][row][real].tolist() == [tokens[place] for place in stays]
            assert inputs["position_ids"][row][real].tolist() == stays
            assert inputs["labels"][row][real].tolist() == [items[row]["labels"][place] for place in stays]
            assert (inputs["labels"][row][~real] == -100).all()
        inputs.pop(ROW_KEY)
        alone = model(**inputs).logits[1][inputs["attention_mask"][1] == 1]
        shorter = {name: part[1:2][:, inputs["attention_mask"][1] == 1] for name, part in inputs.items()}
        torch.testing.assert_close(model(**shorter).logits[0], alone, rtol=1e-4, atol=1e-5)  # free of the padding


def test_drop_shortens_the_passes(tmp_path):
    trainer = trainer_of(tmp_path, "q_tuning(keep=0.5, calibration=false, action=drop)")
    tokens = [result.tokens for result in trainer.epoch_results]
    assert tokens[0] == sum(len(row["input_ids"]) for row in made_up())
    removed = sum(count // 2 for count in (sum(label != -100 for label in row["labels"]) for row in made_up()))
    assert tokens[1] == tokens[2] == tokens[0] - removed


@pytest.mark.cpu
@pytest.mark.parametrize("rule", ["q_tuning(keep=0.6)", "random_tokens(keep=0.5, action=drop)"])
def test_resuming_is_bit_identical(tmp_path, rule):
    steps = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 20}
    whole = trainer_of(tmp_path, rule, **steps)
    for step in (3, 4, 6, 8):  # of 9: at the end of an epoch and inside one
        again = trainer_of(tmp_path / f"from-{step}", rule, resume=str(tmp_path / f"checkpoint-{step}"), **steps)
        assert torch.equal(weights(again.model), weights(whole.model))
        assert again.tokens.summary() == whole.tokens.summary()


@pytest.mark.parametrize("winner", ["cover", "hardest"])
def test_the_tokens_of_a_run_that_has_raced_are_those_of_the_rule_that_won(tmp_path, monkeypatch, winner):
    for name, value in {"WORTH_STEPS": 3, "TWO_RACES_STEPS": 1000, "LEAST_DEV_ROWS": 10}.items():
        monkeypatch.setattr(race, name, value)
    monkeypatch.setattr(race, "LEAST_GAIN", 1e9 if winner == "cover" else -1e9)
    monkeypatch.setattr(race, "STANDARD_ERRORS", 0.0 if winner == "cover" else -1e9)
    options = {"train_dataset": made_up(64), "eval_dataset": made_up(20, 1), "gradient_accumulation_steps": 1}

    def trained(select: str) -> Any:
        diet = {"keep": 0.5, "select": select, "refresh_every": 1}
        return trainer_of(tmp_path / select.partition("(")[0], "q_tuning(keep=0.5)", diet=diet, **options)

    racing, alone = trained("auto(share=0.5)"), trained(winner)
    assert [duel.winner for duel in racing.diet.race.duels] == [winner]
    assert racing.tokens.summary() == alone.tokens.summary()
    for mine, other in zip(racing.tokens.state()[0].values(), alone.tokens.state()[0].values(), strict=True):
        np.testing.assert_array_equal(mine, other)
    assert torch.equal(weights(racing.model), weights(alone.model))


def test_borders_of_rows_in_one_sequence_are_respected():
    """Padding-free: one line for three rows, whose first tokens never train."""
    items = made_up(3)
    flat = [token for item in items for token in item["input_ids"]]
    labels = [label for item in items for label in item["labels"]]
    lengths = [len(item["input_ids"]) for item in items]
    batch = {"input_ids": torch.tensor([flat]), "labels": torch.tensor([labels]), LENGTHS_KEY: torch.tensor(lengths)}
    of_lines, of_one = Trained.of(collate(items), 3), Trained.of(batch, 3)
    assert of_one.counts.tolist() == of_lines.counts.tolist()
    assert of_one.starts.tolist() == of_lines.starts.tolist()
    with pytest.raises(ArgumentError, match="one line of a batch per row, got 1 for 3 rows: set packing=False"):
        Trained.of({"labels": batch["labels"]}, 3)


def test_answers_of_one_conversation_begin_anew():
    labels = torch.tensor([[-100, 5, 6, -100, -100, 7, 8, 9]])
    assert Trained.of({"labels": labels}, 1).starts.tolist() == [True, False, True, False, False]


def test_a_row_that_has_changed_trains_whole():
    model, items = tiny_llama(), made_up(4)
    batch = {**collate(items), ROW_KEY: torch.arange(4)}
    made = pruner(SmoothedTokens(keep=0.5, calibration=False), batch, 4, model)
    changed = [*items[:3], {"input_ids": [1, 2, 3], "labels": [-100, 2, 3]}]
    pruned = made.prune({**collate(changed), ROW_KEY: torch.arange(4)})[TOKEN_KEY]
    assert pruned.kept[-2:].all()
    assert not pruned.kept[:-2].all()


def test_what_only_trained_tokens_say_updates_those_alone():
    """A fused head gives no losses where the labels are -100: the others keep the losses that they had."""
    model, items = tiny_llama(), made_up(4)
    batch = {**collate(items), ROW_KEY: torch.arange(4)}
    made = pruner(SmoothedTokens(keep=0.5, calibration=False), batch, 4, model)
    before = made.state()[0]["nll"].copy()
    done = made.prune(batch)
    pruned, inputs = without_tokens(done)
    torch.manual_seed(1)
    with torch.no_grad():
        model.lm_head.weight.add_(0.5 * torch.randn_like(model.lm_head.weight))
    outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
    made.observe(batch[ROW_KEY], read(outputs, inputs), pruned)  # with the labels that train
    made.decide(2)
    after = made.state()[0]["nll"]
    assert ((before != after) == pruned.kept).all()


# ---- downweight


def test_downweight_has_the_gradient_of_the_weighed_loss(tmp_path):
    """Two steps of SGD, the second with weights, beside losses that are weighed by hand."""
    settings = {"optim": "sgd", "max_grad_norm": 0.0, "learning_rate": 0.5, "lr_scheduler_type": "constant"}
    settings |= {"num_train_epochs": 2, "per_device_train_batch_size": N, "gradient_accumulation_steps": 1}
    trainer = trainer_of(tmp_path, "q_tuning(keep=0.5, calibration=false, action=downweight, weight=0.25)", **settings)
    model = tiny_llama()
    stepper = torch.optim.SGD(model.parameters(), lr=0.5)
    light: dict[tuple[int, ...], torch.Tensor] = {}  # of each row, by its tokens
    for epoch, inputs, given in trainer.batches:
        logits, labels = model(inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits, inputs["labels"]
        total, divisor = torch.zeros(()), 0.0
        for row, line in enumerate(labels):
            places, key = (line != -100).nonzero().flatten(), tuple(inputs["input_ids"][row].tolist())
            nll = functional.cross_entropy(logits[row, places - 1], line[places], reduction="none")
            factor = torch.where(light[key], 0.25, 1.0) if epoch else torch.ones(len(places))
            total, divisor = total + (nll * factor).sum(), divisor + float(factor.sum())
            smooth = smoothed(nll.detach().half().numpy(), [len(places)], 0.5)
            light[key] = torch.ones(len(places), dtype=torch.bool)
            light[key][np.argsort(smooth, kind="stable")[: -(-len(places) // 2)]] = False
        assert float(given["num_items_in_batch"]) == pytest.approx(divisor)
        stepper.zero_grad()
        (total / divisor).backward()
        stepper.step()
        if epoch:
            assert trainer.epoch_results[1].train_loss == pytest.approx(total.item() / divisor, rel=1e-4)
    torch.testing.assert_close(weights(trainer.model), weights(model), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("action", ["mask", "drop", "downweight"])
@pytest.mark.parametrize("own", [True, False])
def test_the_logged_loss_has_the_weights_of_rows_and_of_tokens(action, own, tmp_path):
    """`sum_i w_i sum_t v_it l_it / items` of each step, of the tokens that train."""

    class Rows(Recording):
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            self.rows = [*getattr(self, "rows", []), self._steps.rows]
            self.pruned = [*getattr(self, "pruned", []), self._steps.pruned]
            return super().compute_loss(model, inputs, *args, **kwargs)

    row_weights = np.linspace(0.5, 1.5, N, dtype=np.float32)
    options = {"signals": read} if own else {"signals": None}
    trainer = trainer_of(
        tmp_path, f"q_tuning(keep=0.5, action={action})", kind=Rows, learning_rate=0.0, num_train_epochs=2,
        row_weights=row_weights, **options,
    )  # fmt: skip
    logged = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    found: list[float] = []
    of_rows = torch.from_numpy(row_weights / row_weights.mean())
    for (_, batch, kwargs), rows, pruned in zip(trainer.batches, trainer.rows, trainer.pruned, strict=True):
        inputs = {name: part for name, part in batch.items() if name in ("input_ids", "attention_mask", "position_ids")}
        nll = token_signals(trainer.model(**inputs).logits.detach(), batch["labels"]).nll
        nll = nll if pruned.weights is None else nll * pruned.weights[:, :-1]
        found.append(float((nll * of_rows[rows][:, None]).sum() / kwargs["num_items_in_batch"]))
    steps = [found[place] + found[place + 1] for place in range(0, len(found), 2)]
    assert logged == pytest.approx(steps, rel=1e-4)


# ---- references


def test_a_reference_is_passed_over_the_rows_once_and_kept(tmp_path, monkeypatch):
    reference, items = tiny_llama(seed=5), made_up()
    first = token_reference(reference, items, collate, model=tiny_llama(), cache=tmp_path)
    assert first.counts.tolist() == [sum(label != -100 for label in row["labels"]) for row in items]
    batch = collate(items[3:4])
    alone = token_signals(reference(**batch).logits, batch["labels"])
    start = int(first.counts[:3].sum())
    expected = alone.nll[alone.mask].detach().half().numpy()
    np.testing.assert_allclose(first.nll[start : start + len(expected)], expected, rtol=1e-2)
    monkeypatch.setattr("datadiet.training.tokens.forward_pass", None)  # the second time nothing runs
    second = token_reference(reference, items, collate, model=tiny_llama(), cache=tmp_path)
    np.testing.assert_array_equal(first.nll, second.nll)
    with pytest.raises(TypeError):
        token_reference(tiny_llama(seed=6), items, collate, cache=tmp_path)  # other weights are another entry


def test_excess_trains_on_what_the_reference_finds_easier(tmp_path):
    trainer = trainer_of(tmp_path, "excess(keep=0.4)", reference=tiny_llama(seed=5))
    assert trainer.tokens.summary()["share"] < 0.75
    assert trainer.ledger.snapshot().examples_forward == 4 * N  # one pass of the reference


def test_references_that_do_not_fit(tmp_path):
    with pytest.raises(ArgumentError, match="a vocabulary of 50 tokens, and the model one of 40"):
        trainer_of(tmp_path / "a", "excess", reference=tiny_llama(vocab_size=50))
    with pytest.raises(ArgumentError, match="compares with a reference model: give reference="):
        trainer_of(tmp_path / "b", "excess")
    with pytest.raises(ArgumentError, match="reference has no effect with this token rule; it belongs to excess"):
        trainer_of(tmp_path / "c", "random_tokens", reference=tiny_llama())
    with pytest.raises(ArgumentError, match="reference has no effect without a token rule"):
        trainer_of(tmp_path / "d", None, reference=tiny_llama())
    short = TokenReference(np.array([3] * N), np.zeros(3 * N, np.float16))
    with pytest.raises(ArgumentError, match=r"the reference has read 3 tokens of row \d+ that train, and the model"):
        trainer_of(tmp_path / "e", "excess", reference=short)


# ---- rows and tokens in the same step


class Watching(Recording):
    """Also keeps each batch before the choice within it, with the losses and entropies of its tokens then."""

    def _begin_steps(self) -> Any:
        steps = super()._begin_steps()
        choose = steps._chosen_ahead
        steps._chosen_ahead = lambda chooser, batch: self._watch(choose, chooser, batch)
        return steps

    def _watch(self, choose: Any, chooser: Any, batch: Any) -> Any:
        inputs = {name: part for name, part in batch.items() if name != ROW_KEY}
        self.model.train(False)
        with torch.no_grad():
            logits = self.model(**inputs).logits.double()
        self.model.train()
        rows = []
        for line, labels in zip(logits, batch["labels"], strict=True):
            places = (labels != -100).nonzero().flatten()
            chances = line[places - 1].log_softmax(-1)
            nll = -chances.gather(1, labels[places][:, None])[:, 0]
            rows.append((places.tolist(), nll.tolist(), float(-(chances.exp() * chances).sum(1).mean())))
        done = choose(chooser, batch)
        self.watched = [*getattr(self, "watched", []), (batch, rows, done)]
        return done


def shares_by_hand(values: list[float]) -> list[float]:
    """The mean rank of each, 1 for the smallest, as a share."""
    ranks = [sum(b < a for b in values) + (sum(b == a for b in values) + 1) / 2 for a in values]
    return [rank / len(values) for rank in ranks]


def lowest_by_hand(nll: list[float], keep: float) -> list[int]:
    """Places in an answer that stay: the lowest (1 - lam) x_i + lam mean of the neighbours, lam 0.5."""
    scores = []
    for place, own in enumerate(nll):
        beside = nll[max(0, place - 1) : place] + nll[place + 1 : place + 2]
        scores.append(0.5 * own + 0.5 * sum(beside) / len(beside) if beside else own)
    return sorted(sorted(range(len(nll)), key=lambda place: scores[place])[: math.ceil(keep * len(nll))])


@pytest.mark.proves("q_tuning", kind="in_batch", by="brute")
@pytest.mark.proves("q_tuning", kind="tokens", by="brute")
@pytest.mark.parametrize("mode", ["rank", "paper"])
def test_rows_and_their_tokens_are_chosen_by_one_pass_of_the_batch(mode, tmp_path):
    options = {"diet": {"select": f"q_tuning(mode={mode}, window=0, keep=0.5)"}, "per_device_train_batch_size": 8}
    trainer = trainer_of(tmp_path, "q_tuning(keep=0.5)", kind=Watching, num_train_epochs=5, **options)
    kinds, counted = set(), []
    for batch, rows, done in trainer.watched:
        error, entropy = [sum(nll) / len(nll) for _, nll, _ in rows], [one for *_, one in rows]
        gaps = [u - v for u, v in zip(shares_by_hand(error), shares_by_hand(entropy), strict=True)]
        places = [batch[ROW_KEY].tolist().index(row) for row in done[ROW_KEY].tolist()]
        if mode == "rank":
            assert len(places) == 4
            others = [abs(gaps[place]) for place in range(8) if place not in places]
            assert min(abs(gaps[place]) for place in places) >= max(others) - 1e-9
            misconceptions = [gap > 1e-9 for gap in gaps]
        else:
            stage = quadrant_rows(np.exp(error), entropy, 0.5)
            assert places == np.flatnonzero(stage.mask).tolist()
            misconceptions = (stage.quadrants == MISCONCEPTION).tolist()
        trains = 0
        for line, place in enumerate(places):
            of_answer, nll, _ = rows[place]
            stays = [of_answer[one] for one in lowest_by_hand(nll, 0.5)] if misconceptions[place] else of_answer
            assert (done["labels"][line] != -100).nonzero().flatten().tolist() == stays
            assert done["input_ids"][line].tolist() == batch["input_ids"][place][: done["input_ids"].shape[1]].tolist()
            kinds.add(misconceptions[place])
            trains += len(stays)
        counted.append(trains)
    assert kinds == {True, False}
    # what the loss of a step is divided by: the tokens that train of its two batches, or of a last one alone
    of_steps = [kwargs["num_items_in_batch"] for epoch, _, kwargs in trainer.batches if epoch]
    expected = []
    for epoch in range(4):
        first, second, last = counted[3 * epoch : 3 * epoch + 3]
        expected += [first + second, first + second, last]
    assert [int(items) for items in of_steps] == expected
    whole = sum(len(places) for _, rows, _ in trainer.watched[:3] for places, *_ in rows)  # an epoch
    assert trainer.tokens.summary()["trained"] == whole + sum(counted)
    cost = trainer.ledger.snapshot()
    kept = sum(len(done[ROW_KEY]) for *_, done in trainer.watched)
    assert cost.examples_backward == N + kept
    assert cost.examples_forward == N + kept + 4 * N  # every row once more an epoch, to choose
    assert cost.score_s > 0


@pytest.mark.parametrize("rule", ["excess(keep=0.5)", "excess(keep=0.3, per=all)", "random_tokens(keep=0.5)"])
def test_any_rule_goes_by_the_pass_that_chooses_the_rows(rule, tmp_path):
    options = {"reference": tiny_llama(seed=5)} if "excess" in rule else {}
    select = {"select": "selective_backprop", "seed": 1}
    trainer = trainer_of(tmp_path, rule, kind=Watching, diet=select, **options)
    reference = tiny_llama(seed=5)
    shares = []
    for batch, rows, done in trainer.watched:
        logits = reference(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.detach()
        theirs = token_signals(logits, batch["labels"]).nll
        for line, row in enumerate(done[ROW_KEY].tolist()):
            place = batch[ROW_KEY].tolist().index(row)
            of_answer, nll, _ = rows[place]
            stays = (done["labels"][line] != -100).nonzero().flatten().tolist()
            shares.append((len(stays), len(of_answer)))
            if rule == "excess(keep=0.5)":
                excess = [one - float(theirs[place, at - 1]) for one, at in zip(nll, of_answer, strict=True)]
                order = sorted(range(len(nll)), key=lambda at: -excess[at])
                assert stays == sorted(of_answer[at] for at in order[: math.ceil(len(nll) / 2)])
    if "per=all" not in rule:
        assert all(kept == math.ceil(count / 2) for kept, count in shares)
    assert min(count for count, _ in shares) >= 1


def test_downweight_and_a_choice_within_the_batch_divide_by_the_weights(tmp_path):
    rule = "q_tuning(keep=0.5, action=downweight, weight=0.25)"
    trainer = trainer_of(tmp_path, rule, kind=Watching, diet={"select": "q_tuning"}, num_train_epochs=2)
    steps = zip(trainer.watched[::2], trainer.watched[1::2], strict=True)
    items = [kwargs["num_items_in_batch"] for epoch, _, kwargs in trainer.batches if epoch][::2]
    for pair, found in zip(steps, items, strict=True):
        weights_of = [(part["labels"] != -100).sum() - 0.75 * (~part[TOKEN_KEY].kept).sum() for *_, part in pair]
        assert float(found) == pytest.approx(float(sum(weights_of)))


@pytest.mark.cpu
def test_resuming_inside_an_epoch_chooses_the_same_rows_and_tokens(tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 20, "diet": {"select": "q_tuning"}}
    whole = trainer_of(tmp_path, "q_tuning", **settings)
    for step in (3, 5, 6):
        settings["diet"] = {"select": "q_tuning"}
        again = trainer_of(tmp_path / f"{step}", "q_tuning", resume=str(tmp_path / f"checkpoint-{step}"), **settings)
        assert torch.equal(weights(again.model), weights(whole.model))
        assert again.tokens.summary() == whole.tokens.summary()
        for row in range(N):
            np.testing.assert_array_equal(again.tokens.last_choice(row), whole.tokens.last_choice(row))


# ---- refusals


def test_options_of_rules_are_checked_before_anything_runs():
    with pytest.raises(ArgumentError, match="unknown token rule 'exces'; did you mean 'excess'"):
        Diet(tokens="exces")
    with pytest.raises(ArgumentError, match=r"keep of excess must be in \(0, 1\], got 60. Did you mean 0.6\?"):
        Diet(tokens="excess(keep=60)")
    with pytest.raises(ArgumentError, match="weight has no effect with action=mask"):
        Diet(tokens="excess(weight=0.5)")


def test_drop_refuses_rows_in_one_sequence():
    model, items = tiny_llama(), made_up(3)
    batch = {**collate(items), ROW_KEY: torch.arange(3)}
    made = pruner(SmoothedTokens(keep=0.5, calibration=False, action="drop"), batch, 3, model)
    with pytest.raises(ArgumentError, match="action=drop does not go with packing or padding_free"):
        made.prune({**batch, "position_ids": torch.tensor([[0, 1, 0, 1, *range(batch["labels"].shape[1] - 4)]] * 3)})
    with pytest.raises(ArgumentError, match="cannot take tokens out of completion_mask"):
        made.prune({**batch, "completion_mask": batch["attention_mask"]})


def test_a_model_without_losses_of_tokens_is_refused():
    made = TokenPruner(SmoothedTokens(), 2, seed=0, first=1)
    with pytest.raises(ArgumentError, match="tokens= is for causal language models"):
        made.observe(torch.arange(2), Signals({}), Pruned(np.array([1, 1]), np.ones(2, bool), np.ones(2, bool)))
