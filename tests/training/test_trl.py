"""TRL's trainers on a diet: the losses of plain TRL at keep 1, no extra forward pass, values, weights and refusals.

Models are Llama-shaped, tiny and random; the tokenizer has one token per byte and is made here.
"""

from __future__ import annotations

import copy
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch.testing import assert_close

from datadiet.diet.diet import Diet
from datadiet.errors import ArgumentError
from datadiet.scores.tokens import row_entropy, row_nll, token_signals
from datadiet.selectors.in_batch import dro_weights
from datadiet.training.distill import Teacher
from datadiet.training.trainer import DietMixin
from toys import Logged, hard_diet, scores_of

trl = pytest.importorskip("trl")
pytestmark = [
    pytest.mark.cpu,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]

ROWS, BATCH = 12, 4
TEMPLATE = (
    "{% for m in messages %}{{ '<' + m['role'] + '>' }}{% if m['role'] == 'assistant' %}{% generation %}"
    "{{ m['content'] + eos_token }}{% endgeneration %}{% else %}{{ m['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def byte_tokenizer():
    words = {word: place for place, word in enumerate(("<pad>", "<eos>", "<unk>"))}
    words |= {letter: place + 3 for place, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    made = Tokenizer(models.BPE(vocab=words, merges=[], unk_token="<unk>"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    return hf.PreTrainedTokenizerFast(tokenizer_object=made, chat_template=TEMPLATE, **special)


TOKENIZER = byte_tokenizer()
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
SPECIAL = {"vocab_size": len(TOKENIZER), "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}


def llama(**changes):
    torch.manual_seed(0)
    return hf.LlamaForCausalLM(hf.LlamaConfig(**SIZES, **SPECIAL, **changes))


PAIRS = [{"prompt": f"{row} + 4 =", "completion": f" {row + 4}" * (1 + row % 3)} for row in range(ROWS)]
CHATS = [
    {"messages": [{"role": "user", "content": pair["prompt"]}, {"role": "assistant", "content": pair["completion"]}]}
    for pair in PAIRS
]
TEXTS = [{"text": pair["prompt"] + pair["completion"]} for pair in PAIRS]


def tokens(pair, answer=True):
    prompt, text = (TOKENIZER(text)["input_ids"] for text in (pair["prompt"], pair["prompt"] + pair["completion"]))
    return {
        "input_ids": text,
        "labels": [-100] * len(prompt) + [one if answer else -100 for one in text[len(prompt) :]],
    }


READY = [tokens(pair) for pair in PAIRS]
ANSWERS = [
    {"prompt": f"{row} + 4 =", "chosen": f" {row + 4}", "rejected": " none" * (1 + row % 2)} for row in range(ROWS)
]


class Counting:
    """Counts the forward passes of a model."""

    def __init__(self, model):
        self.passes = 0
        model.register_forward_hook(self)

    def __call__(self, *_):
        self.passes += 1


def settings(folder, kind=trl.SFTConfig, **changes):
    usual = {"num_train_epochs": 1, "per_device_train_batch_size": BATCH, "learning_rate": 1e-2, "seed": 3}
    usual |= {"logging_steps": 1, "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "use_cpu": True}
    usual |= {"bf16": False, "gradient_checkpointing": False, "dataloader_pin_memory": False, "max_length": 64}
    return kind(output_dir=str(folder), **{**usual, **changes})


def trained(folder, data, diet=None, kind=trl.SFTTrainer, config=trl.SFTConfig, model=None, args=None, **options):
    """A trainer that has trained, the losses of its steps, and how often its model ran."""
    seen, dieting = Logged(), {} if diet is None else {"diet": diet}
    made = kind if diet is None else type(f"Diet{kind.__name__}", (DietMixin, kind), {})
    data = Dataset.from_list(data) if isinstance(data, list) else data
    trainer = made(
        model=llama() if model is None else model, args=settings(folder, config, **(args or {})), train_dataset=data,
        processing_class=TOKENIZER, callbacks=[seen], **dieting, **options,
    )  # fmt: skip
    count = Counting(trainer.model)
    trainer.train()
    return trainer, seen.losses, count.passes


def equal(one, two):
    pairs = zip(one.model.state_dict().items(), two.model.state_dict().items(), strict=True)
    return all(name == other and torch.equal(left, right) for (name, left), (other, right) in pairs)


def lora():
    peft = pytest.importorskip("peft")
    return peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")


CASES = {
    "prompt and completion": (PAIRS, {}, {}),
    "conversations": (CHATS, {"assistant_only_loss": True}, {}),
    "text": (TEXTS, {}, {}),
    "tokens": (READY, {}, {}),
    "accumulation": (PAIRS, {"gradient_accumulation_steps": 3, "per_device_train_batch_size": 2}, {}),
    "padding free": (PAIRS, {"padding_free": True, "max_length": None, "per_device_train_batch_size": 2}, {}),
    "packing": (PAIRS, {"packing": True, "max_length": 32, "per_device_train_batch_size": 2}, {}),
    "wrapped packing": (TEXTS, {"packing": True, "packing_strategy": "wrapped", "max_length": 16}, {}),
    "bf16": (PAIRS, {"bf16": True}, {}),
    "checkpointing": (PAIRS, {"gradient_checkpointing": True}, {}),
    "dft": (PAIRS, {"loss_type": "dft"}, {}),
    "label smoothing": (PAIRS, {"label_smoothing_factor": 0.1}, {}),
    "lora": (PAIRS, {}, {"peft_config": lora}),
}


@pytest.mark.parametrize("name", CASES)
def test_at_keep_one_everything_is_that_of_plain_trl(name, tmp_path):
    data, args, options = CASES[name]
    options = {key: make() for key, make in options.items()}
    plain, losses, passes = trained(tmp_path / "plain", data, args=args, **copy.deepcopy(options))
    full, same, as_many = trained(tmp_path / "diet", data, Diet(keep=1.0), args=args, **options)
    assert same == losses
    assert len(losses) >= 2
    assert equal(full, plain)
    assert as_many == passes  # no pass of the model is added
    table = full.diet.history.to_pandas()
    assert len(table) == len(full.train_dataset)
    assert np.isfinite(table[["loss", "el2n", "gold_probability", "correct"]]).all(axis=None)
    assert table["margin"].isna().all()  # needs logits


def by_hand(model, row):
    """Of one row alone, from its logits."""
    ids = torch.tensor([row["input_ids"]])
    with torch.no_grad():
        return token_signals(model.eval()(ids).logits, torch.tensor([row["labels"]]))


@pytest.mark.parametrize("args", [{}, {"padding_free": True, "max_length": None}, {"bf16": True}])
def test_values_are_those_of_the_logits_of_each_row(args, tmp_path):
    args = {**args, "learning_rate": 0.0}
    trainer, *_ = trained(tmp_path, READY, Diet(keep=1.0), args=args)
    table = trainer.diet.history.to_pandas().sort_values("row").reset_index(drop=True)
    rough = 0.02 if "bf16" in args else 1e-5
    for row, values in table.iterrows():
        head = by_hand(trainer.model, READY[row])
        counted = head.mask
        assert math.isclose(values["loss"], row_nll(head).item(), rel_tol=rough)
        assert math.isclose(values["el2n"], head.error.square().sum().sqrt().item(), rel_tol=rough)
        assert math.isclose(values["gold_probability"], (-head.nll[counted]).exp().mean().item(), rel_tol=2 * rough)
        assert values["correct"] == float(head.right[counted].all())


class ValueHead(torch.nn.Module):
    """A language model inside another module, which gives `(logits, loss, value)`."""

    def __init__(self, inside):
        super().__init__()
        self.pretrained_model, self.config = inside, inside.config
        self.v_head = torch.nn.Linear(inside.config.hidden_size, 1)

    def forward(self, input_ids, attention_mask=None, labels=None):
        given = self.pretrained_model(
            input_ids=input_ids, attention_mask=attention_mask, labels=labels, output_hidden_states=True
        )
        return given.logits.float(), given.loss, self.v_head(given.hidden_states[-1]).squeeze(-1)


class OfValues(hf.Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        logits, _, value = model(**inputs)
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        loss = loss + 0.1 * value.square().mean()
        return (loss, (logits, value)) if return_outputs else loss


class OfKept(hf.Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        kept = labels.shape[1] - int((labels != -100).any(0).nonzero()[0]) + 1
        outputs = model(**inputs, logits_to_keep=kept)
        loss = torch.nn.functional.cross_entropy(outputs.logits[:, :-1].flatten(0, 1), labels[:, 1 - kept :].flatten())
        return (loss, outputs) if return_outputs else loss


def collated(items):
    return {
        name: torch.nn.utils.rnn.pad_sequence([torch.tensor(item[name]) for item in items], True, padding)
        for name, padding in (("input_ids", 0), ("labels", -100))
    }


OWN_LOSSES = {
    "a value head": (OfValues, lambda: ValueHead(llama())),
    "logits_to_keep": (OfKept, llama),
}


@pytest.mark.parametrize("rescore", ["none", "all"])
@pytest.mark.parametrize("name", OWN_LOSSES)
def test_a_loss_of_ones_own_shows_which_labels_the_logits_are_about(name, rescore, tmp_path):
    kind, model = OWN_LOSSES[name]
    diet = Diet(keep=0.5, score="cross_entropy", combine="mean", select="hardest", rescore=rescore)
    args = hf.TrainingArguments(
        str(tmp_path), learning_rate=0.0, num_train_epochs=2, per_device_train_batch_size=BATCH, report_to="none",
        use_cpu=True, save_strategy="no", remove_unused_columns=False,
    )  # fmt: skip
    made = type("Dieting", (DietMixin, kind), {})
    trainer = made(model=model(), args=args, train_dataset=Dataset.from_list(READY), data_collator=collated, diet=diet)
    trainer.train()
    table = diet.history.to_pandas().query("epoch == 0").sort_values("row")
    expected = [row_nll(by_hand(llama(), row)).item() for row in READY]
    assert table["cross_entropy"].tolist() == pytest.approx(expected, abs=1e-5)
    assert [line.kept for line in trainer.epoch_results] == [ROWS, BATCH]


def test_what_was_read_before_a_loss_showed_a_language_model_is_refused(tmp_path):
    diet = Diet(select="selective_backprop", keep=0.5, warmup_epochs=0)
    args = hf.TrainingArguments(str(tmp_path), report_to="none", use_cpu=True, remove_unused_columns=False)
    made = type("Dieting", (DietMixin, OfValues), {})
    trainer = made(
        model=ValueHead(llama()), args=args, train_dataset=Dataset.from_list(READY), data_collator=collated, diet=diet
    )
    with pytest.raises(ArgumentError, match=r"before the first training step are wrong. Begin with a warm-up epoch"):
        trainer.train()


@pytest.mark.parametrize("score", ["entropy", "cross_entropy", "el2n"])
def test_scores_of_passes_are_those_of_training(score, tmp_path):
    diet = Diet(score=score, combine="mean", select="hardest", keep=0.5, rescore="all", warmup_epochs=1)
    args = {"learning_rate": 0.0, "num_train_epochs": 2}
    trained(tmp_path, READY, diet, args=args)
    table = scores_of(tmp_path)
    by_source = [table[(table["source"] == source) & (table["epoch"] < 2)] for source in ("train", "pass")]
    seen, scored = (part.drop_duplicates("row").set_index("row")[score].sort_index() for part in by_source)
    assert len(scored) == ROWS
    assert np.allclose(seen, scored, rtol=1e-5)
    expected = [row_entropy(by_hand(llama(), row)).item() for row in READY]
    assert score != "entropy" or np.allclose(scored, expected, rtol=1e-5)


@pytest.mark.parametrize("strategy", ["bfd_split", "wrapped"])
@pytest.mark.parametrize("flat", [False, True])
def test_a_pack_that_cuts_rows_has_the_mean_of_its_parts_or_of_its_line(strategy, flat, tmp_path):
    """`wrapped` says nowhere where a row begins: the value is that of the line."""
    args = {"packing": True, "packing_strategy": strategy, "max_length": 12, "learning_rate": 0.0}
    args |= {"padding_free": flat, "per_device_train_batch_size": 2}
    trainer, *_ = trained(tmp_path, READY, Diet(keep=1.0), args=args)
    table = trainer.diet.history.to_pandas().set_index("row")["loss"]
    cut = 0
    for row, pack in enumerate(trainer.train_dataset):
        sizes = pack.get("seq_lengths") or [len(pack["input_ids"])]
        ends = np.cumsum(sizes).tolist()
        parts = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
        cut += len(parts) > 1
        heads = [by_hand(trainer.model, {name: pack[name][part] for name in READY[0]}) for part in parts]
        nll = [row_nll(head).item() for head in heads if head.mask.any()]
        assert math.isclose(table[row], np.mean(nll), rel_tol=1e-4) if nll else math.isnan(table[row])
    assert bool(cut) == (strategy == "bfd_split")


def test_packs_of_ones_own_in_a_padded_batch_have_the_mean_of_their_texts(tmp_path):
    """Rows with `position_ids` that begin anew, in the plain Trainer, which pads them with zeros."""
    packs = []
    for first in range(0, ROWS, 3):
        rows = READY[first : first + 3]
        packs.append({name: [one for row in rows for one in row[name]] for name in READY[0]})
        packs[-1]["position_ids"] = [place for row in rows for place in range(len(row["input_ids"]))]

    def collate(items):
        longest = max(len(item["labels"]) for item in items)
        fill = {"input_ids": 0, "labels": -100, "position_ids": 0}
        return {name: torch.tensor([item[name] + [pad] * (longest - len(item[name])) for item in items])
                for name, pad in fill.items()}  # fmt: skip

    trainer = type("Diet", (DietMixin, hf.Trainer), {})(
        model=llama(), args=hf.TrainingArguments(str(tmp_path), use_cpu=True, report_to="none", learning_rate=0.0,
                                                 num_train_epochs=1, per_device_train_batch_size=2),
        train_dataset=packs, data_collator=collate, diet=Diet(keep=1.0),
    )  # fmt: skip
    trainer.train()
    table = trainer.diet.history.to_pandas().sort_values("row")["loss"].tolist()
    for place, (pack, value) in enumerate(zip(packs, table, strict=True)):
        batch = collate([pack])
        with torch.no_grad():
            logits = llama().eval()(batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
        head, begin, parts = token_signals(logits, batch["labels"]), 0, []
        for row in READY[3 * place : 3 * place + 3]:
            parts.append(slice(max(begin - 1, 0), begin + len(row["labels"]) - 1))
            begin += len(row["labels"])
        nll = [head.nll[0, part][head.mask[0, part]].mean().item() for part in parts]
        assert math.isclose(value, np.mean(nll), rel_tol=1e-4)


PACKED = {"keep": 0.67, "rescore": "all", "select": "hardest", "score": "entropy", "combine": "mean"}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("changes", [{}, PACKED])
def test_a_pack_has_the_mean_value_of_its_texts(changes, batch, tmp_path):
    args = {"packing": True, "max_length": 32, "per_device_train_batch_size": batch, "learning_rate": 0.0}
    args |= {"num_train_epochs": 1 + 2 * bool(changes)}
    trainer, *_ = trained(tmp_path, READY, Diet(**{"keep": 1.0, **changes}), args=args)
    table = trainer.diet.history.to_pandas()
    assert set(table["source"]) == ({"train", "pass"} if changes else {"train"})
    table = table[table["epoch"] == 0].drop_duplicates(["row", "source"]).sort_values(["source", "row"])
    packs = [trainer.train_dataset[row] for row in table["row"].tolist()]
    assert set(table["row"]) == set(range(len(trainer.train_dataset)))
    assert max(len(pack["seq_lengths"]) for pack in packs) > 1
    of_rows = {tuple(row["input_ids"]): by_hand(trainer.model, row) for row in READY}
    for pack, value, entropy in zip(packs, table["loss"], table["entropy"] if changes else table["el2n"], strict=True):
        ends = np.cumsum(pack["seq_lengths"])
        parts = [
            tuple(pack["input_ids"][end - size : end]) for end, size in zip(ends, pack["seq_lengths"], strict=True)
        ]
        nll = np.mean([of_rows[part].nll[of_rows[part].mask].mean().item() for part in parts])
        assert math.isclose(value, nll, rel_tol=1e-4)
        of_texts = np.mean([row_entropy(of_rows[part]).item() for part in parts])
        assert not changes or math.isclose(entropy, of_texts, rel_tol=1e-4)


@pytest.mark.parametrize("rescore", ["none", "all"])
@pytest.mark.parametrize("args", [{}, {"padding_free": True, "max_length": None}])
def test_below_keep_one_the_hardest_rows_train(args, rescore, tmp_path):
    diet = hard_diet(keep=0.67, warmup_epochs=1, rescore=rescore)
    args = {**args, "num_train_epochs": 2, "learning_rate": 0.0}
    trainer, losses, passes = trained(tmp_path, READY, diet, args=args)
    assert [line.kept for line in trainer.epoch_results] == [ROWS, 2 * BATCH]
    assert len(losses) == 5
    assert passes == 5 + (rescore == "all")  # one pass of 12 rows
    assert trainer.ledger.snapshot().examples_forward == ROWS + 2 * BATCH + (rescore == "all") * ROWS
    table = scores_of(tmp_path)
    first = table[(table["epoch"] == 0) | (table["source"] == "pass")].drop_duplicates("row", keep="last")
    hardest = set(first.nlargest(2 * BATCH, "el2n")["row"])
    assert set(table[(table["epoch"] == 1) & (table["source"] == "train")]["row"]) == hardest


@pytest.mark.parametrize("kind", [trl.SFTTrainer, hf.Trainer])
@pytest.mark.parametrize("weighs", [False, True])
def test_a_step_is_the_weighted_sum_over_its_tokens(kind, weighs, tmp_path):
    """`sum_i w_i sum_t l_it / tokens` of the whole step, over the batches of its accumulation; and its gradient."""
    weights = np.float32([0.5, 1.5, 1.0, 3.0, 0.25, 0.75] * 2) if weighs else np.ones(ROWS, np.float32)
    weights /= weights.mean()
    args = {"learning_rate": 0.5, "optim": "sgd", "max_grad_norm": 0.0, "lr_scheduler_type": "constant"}
    args |= {"gradient_accumulation_steps": 3, "per_device_train_batch_size": 4}
    options = {"row_weights": weights} if weighs else {}
    if kind is hf.Trainer:
        collator = hf.DataCollatorForSeq2Seq(TOKENIZER)
        seen = Logged()
        plain = settings(tmp_path, trl.SFTConfig, **args).to_dict()
        known = {name: value for name, value in plain.items() if name in vars(hf.TrainingArguments(str(tmp_path)))}
        known = {name: value for name, value in known.items() if not name.startswith("hub")}
        trainer = type("Diet", (DietMixin, hf.Trainer), {})(
            model=llama(), args=hf.TrainingArguments(**known), train_dataset=Dataset.from_list(READY),
            data_collator=collator, callbacks=[seen], diet=Diet(keep=1.0), **options,
        )  # fmt: skip
        trainer.train()
        losses = seen.losses
    else:
        trainer, losses, _ = trained(tmp_path, READY, Diet(keep=1.0), args=args, **options)
    model, total = llama(), sum(sum(one != -100 for one in row["labels"]) for row in READY)
    loss = 0
    for row, weight in zip(READY, weights, strict=True):
        labels = torch.tensor(row["labels"])[1:]
        logits = model(torch.tensor([row["input_ids"]])).logits[0, :-1]
        loss = loss + float(weight) * torch.nn.functional.cross_entropy(logits, labels, reduction="sum") / total
    loss.backward()
    assert losses == pytest.approx([loss.item()], rel=1e-5)
    for (name, moved), weight in zip(trainer.model.named_parameters(), model.parameters(), strict=True):
        assert_close(moved.detach(), weight.detach() - 0.5 * weight.grad, rtol=1e-4, atol=1e-6, msg=name)


def summed(outputs, labels, num_items_in_batch=None):
    logits, targets = outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    loss = torch.nn.functional.cross_entropy(logits, targets, reduction="sum", label_smoothing=0.3)
    return loss / num_items_in_batch


FLAT = {"padding_free": True, "max_length": None}
SMOOTH = {"label_smoothing_factor": 0.1}


@pytest.mark.parametrize(
    ("args", "options"),
    [
        *((args, {}) for args in ({}, FLAT, {"loss_type": "dft"}, SMOOTH)),
        pytest.param({**FLAT, **SMOOTH}, {}, marks=pytest.mark.soak),
        pytest.param({}, {"compute_loss_func": summed}, marks=pytest.mark.soak),
        (FLAT, {"compute_loss_func": summed}),
    ],
)
def test_a_weight_is_so_many_copies_of_a_row(args, options, tmp_path):
    """Rows that weigh 2 in a step of 12 rows of equal length, against the step with those rows twice."""
    rows = [{"input_ids": [3 + row, 20, 30 + row, 40], "labels": [-100, -100, 30 + row, 40]} for row in range(9)]
    weights = [2.0, 1.0, 1.0] * 3
    args = {"learning_rate": 0.5, "optim": "sgd", "max_grad_norm": 0.0, "per_device_train_batch_size": 12, **args}
    twice, losses, _ = trained(tmp_path / "twice", rows + rows[::3], args=args, **options)
    data = Dataset.from_list(rows).add_column("weight", weights)
    trainer, weighted, _ = trained(tmp_path / "weighted", data, Diet(keep=1.0), args=args, **options)
    assert trainer.diet.describe()["row_weights"]
    for one, two in zip(trainer.model.parameters(), twice.model.parameters(), strict=True):
        assert_close(one, two, rtol=1e-4, atol=1e-6)
    assert weighted == pytest.approx(losses, rel=1e-5)
    if not (options or "label_smoothing_factor" in args):
        return
    ones = np.ones(len(rows), np.float32)
    plain, logged, _ = trained(tmp_path / "plain", rows, args=args, **options)
    alike, same, _ = trained(tmp_path / "ones", rows, Diet(keep=1.0), args=args, row_weights=ones, **options)
    assert same == logged
    assert equal(alike, plain)


@pytest.mark.parametrize("options", [{"compute_loss_func": summed}, {"args": SMOOTH}])
def test_light_tokens_have_their_weight_in_the_logged_loss_of_a_function(options, tmp_path):
    """With a learning rate of 0, beside the losses of each token by hand."""
    args = {**options.get("args", {}), "num_train_epochs": 2, "learning_rate": 0.0}
    args |= {"per_device_train_batch_size": ROWS}
    rule = "q_tuning(keep=0.5, lam=0, calibration=false, action=downweight, weight=0.25)"
    more = {name: value for name, value in options.items() if name != "args"}
    weights = np.float32([1, 2, 3, 2] * 3)
    diet = Diet(keep=1.0, tokens=rule)
    _, losses, _ = trained(tmp_path, READY, diet, args=args, row_weights=weights, **more)
    amount = 0.3 if more else 0.1
    total, divisor = 0.0, 0.0
    for row, weight in zip(READY, weights / weights.mean(), strict=True):
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])
        places = (labels != -100).nonzero().flatten()
        logs = -llama()(ids).logits[0].log_softmax(-1)[places - 1].detach()
        own = logs[range(len(places)), labels[places]]
        light = torch.full_like(own, 0.25)
        light[own.half().argsort(stable=True)[: -(-len(own) // 2)]] = 1.0
        losses_of_row = (1 - amount) * own + amount * logs.mean(-1)
        total, divisor = total + weight * (light * losses_of_row).sum().item(), divisor + light.sum().item()
    assert losses[1] == pytest.approx(total / divisor, rel=1e-4)


def test_arguments_of_rows_follow_the_rows_that_trl_leaves_and_shuffles(tmp_path):
    data = [dict(row) for row in PAIRS]
    data[5]["prompt"] = "x" * 80  # its answer is cut away
    weights = np.arange(1, ROWS + 1, dtype=np.float32)
    ids = [f"row {row}" for row in range(ROWS)]
    args = {"shuffle_dataset": True, "learning_rate": 0.0}
    trainer, *_ = trained(tmp_path, data, Diet(keep=1.0), args=args, row_weights=weights, ids=ids)
    left = [row for row in ids if row != "row 5"]
    assert sorted(trainer.row_ids) == sorted(left)
    assert trainer.row_ids != left
    places = [int(name.split()[1]) for name in trainer.row_ids]
    assert trainer._row_weights.tolist() == weights[places].tolist()
    texts = [TOKENIZER.decode(row["input_ids"]) for row in trainer.train_dataset]
    assert all(text.startswith(PAIRS[place]["prompt"]) for text, place in zip(texts, places, strict=True))
    with pytest.raises(ArgumentError, match="ids must be one per training row, 12: got 11"):
        trained(tmp_path, data, Diet(keep=1.0), ids=ids[1:])


def test_rows_without_an_answer_have_no_value_and_come_last(tmp_path):
    """Rows of the plain Trainer: TRL leaves them out itself."""
    data = [tokens(pair, answer=row not in (1, 5)) for row, pair in enumerate(PAIRS)]
    args = hf.TrainingArguments(
        str(tmp_path), num_train_epochs=2, per_device_train_batch_size=2, report_to="none", save_strategy="no",
        use_cpu=True, disable_tqdm=True, learning_rate=1e-3, logging_strategy="no",
    )  # fmt: skip
    for select in ("hardest", "easiest"):
        trainer = type("Diet", (DietMixin, hf.Trainer), {})(
            model=llama(), args=args, train_dataset=Dataset.from_list(data), overwrite=True,
            data_collator=hf.DataCollatorForSeq2Seq(TOKENIZER), diet=Diet(select=select, keep=0.67, warmup_epochs=1),
        )  # fmt: skip
        trainer.train()
        table = trainer.diet.history.to_pandas()
        assert table[table["row"].isin([1, 5])]["loss"].isna().all()
        assert table[table["row"].isin([1, 5])]["el2n"].isna().all()
        second = table[table["epoch"] == 1]["row"]
        assert len(second) == 8
        assert not {1, 5} & set(second)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"diet": {"score": "margin"}}, "'margin' cannot be read off the next tokens .* no logits"),
        ({"diet": {"score": "aum", "rescore": "none"}}, "the score 'aum' needs margin of each example"),
        ({"diet": {"select": "divbs"}}, "'divbs' needs the gradients of the last layer, .* use selective_backprop"),
        ({"diet": {"offset": "auto"}}, r"has the next tokens of a text\. Leave out the hardest tenth with offset 0\.1"),
        ({"teacher": Teacher({}, 2.0)}, "a teacher needs logits"),
        (
            {"row_weights": [-1.0] + [1.0] * 11},
            "above 0; rows .* are not. A negative weight would make the model worse",
        ),
        (
            {"args": {"packing": True}, "row_weights": [1.0] * 12},
            "packing=True puts several rows into one, which row_w",
        ),
    ],
)
def test_what_next_tokens_cannot_have_is_refused_before_the_first_step(options, message, tmp_path):
    options = {"args": {"num_train_epochs": 2}, **options}
    model = llama()
    counted = Counting(model)
    diet = Diet(**{"keep": 0.5, "select": "hardest", **options.pop("diet", {})})
    if "row_weights" in options:
        options["row_weights"] = np.float32(options["row_weights"])
    with pytest.raises(ArgumentError, match=message):
        trained(tmp_path, READY, diet, model=model, **options)
    assert counted.passes == 0


def test_a_weight_column_of_packs_is_refused(tmp_path):
    data = Dataset.from_list(PAIRS).add_column("weight", [2.0] * ROWS)
    with pytest.raises(ArgumentError, match="several rows into one, which the column `weight` cannot follow"):
        trained(tmp_path, data, Diet(keep=1.0), args={"packing": True})


def test_a_choice_within_each_batch_divides_by_the_tokens_that_train(tmp_path):
    diet = Diet(select="selective_backprop", keep=0.5, warmup_epochs=0, seed=1)
    args = {"learning_rate": 0.0, "per_device_train_batch_size": 6}
    trainer, losses, _ = trained(tmp_path, READY, diet, args=args)
    table = trainer.diet.history.to_pandas()
    for step, loss in enumerate(losses, 1):
        heads = [by_hand(trainer.model, READY[row]) for row in table[table["moment"] == step]["row"]]
        nll = torch.cat([head.nll[head.mask] for head in heads])
        assert math.isclose(loss, nll.mean().item(), rel_tol=1e-5)
    with pytest.raises(ArgumentError, match="a choice within each batch needs one output of the model per row"):
        trained(tmp_path / "flat", READY, diet, args={"padding_free": True, "max_length": None})


def test_a_run_that_was_cut_goes_on_to_the_bit(tmp_path):
    def run(folder, resume=False, **changes):
        args = settings(folder, num_train_epochs=3, save_strategy="steps", save_steps=1, **changes)
        trainer = type("Diet", (DietMixin, trl.SFTTrainer), {})(
            model=llama(), args=args, train_dataset=Dataset.from_list(PAIRS), processing_class=TOKENIZER,
            diet=Diet(keep=0.67, select="hardest", warmup_epochs=1, seed=1),
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=resume or None)
        return trainer

    whole = run(tmp_path / "whole")
    for name in ("checkpoint-5", "checkpoint-6", "checkpoint-7"):
        (tmp_path / "whole" / name / "datadiet.json").unlink(missing_ok=True)
    again = run(tmp_path / "whole", resume=str(tmp_path / "whole" / "checkpoint-4"))
    assert again.state.global_step == whole.state.global_step
    assert equal(again, whole)


# ---- pairs of answers


def reward_model():
    torch.manual_seed(0)
    return hf.LlamaForSequenceClassification(hf.LlamaConfig(**SIZES, **SPECIAL, num_labels=1))


KINDS = {
    "reward": {"kind": trl.RewardTrainer, "config": trl.RewardConfig},
    "dpo": {"kind": trl.DPOTrainer, "config": trl.DPOConfig},
}


def pairs_trained(name, folder, diet=None, data=ANSWERS, **options):
    model = reward_model() if name == "reward" else llama()
    if name == "dpo" and "peft_config" not in options:
        options["ref_model"] = llama()
    return trained(folder, data, diet, model=model, **KINDS[name], **options)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("reward", {}),
        ("dpo", {}),
        ("dpo", {"peft_config": lora}),
        ("dpo", {"args": {"precompute_ref_log_probs": True}}),
    ],
)
def test_pairs_at_keep_one_are_those_of_plain_trl(name, options, tmp_path):
    options = {key: value() if callable(value) else value for key, value in options.items()}
    plain, losses, passes = pairs_trained(name, tmp_path / "plain", **copy.deepcopy(options))
    full, same, as_many = pairs_trained(name, tmp_path / "diet", Diet(keep=1.0), **options)
    assert same == losses
    assert equal(full, plain)
    assert as_many == passes
    assert len(full.diet.history.to_pandas()) == ROWS


@pytest.mark.parametrize("name", KINDS)
def test_the_loss_of_pairs_is_the_mean_of_those_recorded(name, tmp_path):
    trainer, losses, _ = pairs_trained(name, tmp_path, Diet(keep=1.0))
    table = trainer.diet.history.to_pandas()
    assert losses == pytest.approx(table.groupby("moment")["loss"].mean().tolist(), rel=1e-5)
    assert table["loss"].nunique() > ROWS // 2


@pytest.mark.parametrize("name", KINDS)
def test_the_hardest_pairs_train(name, tmp_path):
    args = {"num_train_epochs": 2}
    trainer, losses, _ = pairs_trained(name, tmp_path, hard_diet(keep=0.67, warmup_epochs=1), args=args)
    assert [line.kept for line in trainer.epoch_results] == [ROWS, 2 * BATCH]
    assert len(losses) == 5


def test_pairs_have_no_class_whatever_column_they_have(tmp_path):
    answers = [{**row, "label": place % 2} for place, row in enumerate(ANSWERS)]
    diet = Diet(keep=0.67, select="hardest", warmup_epochs=1)
    trainer, _, _ = pairs_trained("reward", tmp_path, diet, answers, args={"num_train_epochs": 2})
    assert not trainer.diet.guarded


def test_a_stray_column_of_classes_is_none_of_a_language_model(tmp_path):
    rows = [{**row, "label": place % 2} for place, row in enumerate(READY)]
    args = hf.TrainingArguments(str(tmp_path), use_cpu=True, report_to="none", num_train_epochs=3)
    made = type("Diet", (DietMixin, hf.Trainer), {})(
        model=llama(), args=args, train_dataset=Dataset.from_list(rows), diet=Diet(keep=0.67, select="hardest"),
        data_collator=lambda part: hf.DataCollatorForSeq2Seq(TOKENIZER)(
            [{name: value for name, value in row.items() if name != "label"} for row in part]
        ),
    )  # fmt: skip
    made.train()
    assert made.diet.noise_summary() is None
    assert [line.kept for line in made.epoch_results][1] < len(rows)


MANY = ["sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "apo_zero", "apo_down"]
MANY += ["discopop", "sigmoid_norm"]
DPO = [
    {"loss_type": MANY, "loss_weights": [0.3 + 0.1 * place for place in range(len(MANY))]},
    {"ld_alpha": 0.5, "use_weighting": True},
    {"f_divergence_type": "js_divergence", "precompute_ref_log_probs": True, "loss_type": "hinge"},
]


@pytest.mark.parametrize(
    ("name", "more"),
    [
        *((name, {}) for name in KINDS),
        ("reward", {"center_rewards_coefficient": 0.5}),
        *(("dpo", {"label_smoothing": 0.2, **more}) for more in DPO),
    ],
)
def test_a_weight_is_so_many_copies_of_a_pair(name, more, tmp_path):
    args = {**more, "learning_rate": 0.05, "optim": "sgd", "max_grad_norm": 0.0, "per_device_train_batch_size": 12}
    args |= {"disable_dropout": True, "num_train_epochs": 2}
    rows = ANSWERS[:9]
    twice, losses, _ = pairs_trained(name, tmp_path / "twice", data=rows + rows[::3], args=args)
    weights = np.float32([2, 1, 1] * 3)
    weighted, logged, _ = pairs_trained(
        name, tmp_path / "weighted", Diet(keep=1.0), data=rows, args=args, row_weights=weights
    )  # fmt: skip
    for one, two in zip(weighted.model.parameters(), twice.model.parameters(), strict=True):
        assert_close(one, two, rtol=1e-4, atol=1e-5)
    assert logged == pytest.approx(losses, rel=1e-4)
    table = weighted.diet.history.to_pandas().set_index("row")
    first, second = (table[table["epoch"] == epoch]["loss"].sort_index() for epoch in (0, 1))
    assert np.average(second, weights=weights) == pytest.approx(logged[1], rel=1e-4)
    assert first.notna().all()
    assert weighted._metrics["train"].keys() == twice._metrics["train"].keys()


def test_of_a_mean_over_all_chosen_tokens_a_pair_has_its_share(tmp_path):
    args = {"loss_type": "sft", "learning_rate": 0.0, "per_device_train_batch_size": 12, "num_train_epochs": 1}
    weights = np.arange(1, 13, dtype=np.float32)
    trainer, logged, _ = pairs_trained("dpo", tmp_path, Diet(keep=1.0), args=args, row_weights=weights)
    shares = trainer.diet.history.to_pandas().sort_values("row")["loss"]
    sums, tokens = [], 0
    for row in ANSWERS:
        prompt, text = (TOKENIZER(part)["input_ids"] for part in (row["prompt"], row["prompt"] + row["chosen"]))
        ids = torch.tensor([[*text, 1]])
        nll = -llama()(ids[:, :-1]).logits.log_softmax(-1).gather(2, ids[:, 1:, None])[0, len(prompt) - 1 :, 0]
        sums.append(nll.sum().item())
        tokens += len(nll)
    assert shares.tolist() == pytest.approx([one / tokens * ROWS for one in sums], rel=1e-4)
    assert logged[0] == pytest.approx(np.average(shares, weights=weights), rel=1e-4)


def test_weights_of_a_loss_that_sorts_its_batch_are_refused(tmp_path):
    weights, args = np.arange(1, ROWS + 1, dtype=np.float32), {"loss_type": "aot"}
    with pytest.raises(
        ArgumentError, match=r"need a loss of each pair, and loss_type=\['aot'\] sorts those of a batch"
    ):
        pairs_trained(
            "dpo",
            tmp_path,
            Diet(keep=0.67, select="hardest"),
            row_weights=weights,
            args={**args, "num_train_epochs": 2},
        )


def test_a_trainer_of_trl_whose_outputs_are_not_known_is_refused(tmp_path):
    rows = [{"prompt": row["prompt"], "completion": row["chosen"], "label": True} for row in ANSWERS]
    options = {"kind": trl.KTOTrainer, "config": trl.KTOConfig, "ref_model": llama(), "args": {"num_train_epochs": 2}}
    with pytest.raises(ArgumentError, match=r"what DietKTOTrainer gives of each row is not known\. Pass signals="):
        trained(tmp_path, rows, hard_diet(keep=0.67), **options)


def test_a_kernel_without_logits_is_refused(tmp_path, monkeypatch):
    """Liger itself is not installed here; it would replace the forward of the model at the start of the training."""
    args = hf.TrainingArguments(str(tmp_path), use_cpu=True, report_to="none", num_train_epochs=2)
    made = type("Diet", (DietMixin, hf.Trainer), {})(
        model=llama(), args=args, train_dataset=Dataset.from_list(READY), diet=hard_diet(keep=0.67),
        data_collator=hf.DataCollatorForSeq2Seq(TOKENIZER),
    )  # fmt: skip
    monkeypatch.setattr(args, "use_liger_kernel", True)
    monkeypatch.setattr(hf.trainer, "apply_liger_kernel", lambda *_: None, raising=False)
    with pytest.raises(ArgumentError, match="fused_linear_cross_entropy of Liger gives neither logits nor numbers"):
        made.train()


def test_passes_over_pairs_of_dpo_are_refused(tmp_path):
    with pytest.raises(ArgumentError, match="rescore='all' needs passes of the model alone, and pairs of DPO"):
        pairs_trained("dpo", tmp_path, hard_diet(keep=0.67, rescore="all"), args={"num_train_epochs": 2})


# ---- a part of the tokens


@pytest.mark.parametrize(
    "args",
    [
        {},
        {"padding_free": True, "max_length": None},
        {"packing": True, "max_length": 32, "per_device_train_batch_size": 2},
        {"gradient_accumulation_steps": 3},
    ],
)
def test_the_share_of_each_answer_trains_and_the_loss_is_divided_by_it(args, tmp_path):
    """With a learning rate of 0 the loss of the second epoch is the mean over the kept tokens, by hand."""
    args = {"per_device_train_batch_size": ROWS, **args, "num_train_epochs": 2, "learning_rate": 0.0}
    data = PAIRS if "packing" in args else READY
    trainer, _, passes = trained(
        tmp_path, data, Diet(keep=1.0, tokens="q_tuning(keep=0.5, lam=0, calibration=false)"), args=args
    )
    steps = -(-len(trainer.train_dataset) // args["per_device_train_batch_size"])
    assert passes == 2 * steps  # none of its own
    found = trainer.tokens.summary()
    whole = sum(sum(label != -100 for label in row["labels"]) for row in READY)
    whole += ROWS if "packing" in args else 0  # TRL ends its own completions
    assert found["seen"] == 2 * whole
    if "packing" in args:  # a pack is a row
        assert whole / 2 <= found["trained"] - whole <= whole / 2 + len(trainer.train_dataset)
        return
    kept = []
    for row in range(ROWS):
        head = by_hand(trainer.model, READY[row])
        nll = head.nll[head.mask]
        kept += sorted(nll.tolist())[: -(-len(nll) // 2)]
    assert found["trained"] == whole + len(kept)
    if steps == 1:
        assert math.isclose(trainer.epoch_results[1].train_loss, sum(kept) / len(kept), rel_tol=1e-3)


@pytest.mark.parametrize("args", [{}, {"padding_free": True, "max_length": None}])
def test_downweight_reaches_the_fused_head(args, tmp_path):
    """The weights after a step beside those of a loss over weighed tokens, by hand."""
    args = {**args, "num_train_epochs": 2, "per_device_train_batch_size": ROWS, "learning_rate": 0.3, "optim": "sgd"}
    args |= {"max_grad_norm": 0.0, "lr_scheduler_type": "constant"}
    rule = "q_tuning(keep=0.5, lam=0, calibration=false, action=downweight, weight=0.25)"
    trainer, *_ = trained(tmp_path, READY, Diet(keep=1.0, tokens=rule), args=args)
    model = llama()
    light = {}
    for epoch in range(2):
        total, divisor = torch.zeros(()), 0.0
        for row, item in enumerate(READY):
            ids, labels = torch.tensor([item["input_ids"]]), torch.tensor(item["labels"])
            places = (labels != -100).nonzero().flatten()
            nll = -model(ids).logits[0].log_softmax(-1)[places - 1, labels[places]]
            factor = torch.where(light[row], 0.25, 1.0) if epoch else torch.ones(len(nll))
            total, divisor = total + (nll * factor).sum(), divisor + factor.sum().item()
            light[row] = torch.ones(len(nll), dtype=torch.bool)
            light[row][nll.detach().half().argsort(stable=True)[: -(-len(nll) // 2)]] = False
        model.zero_grad()
        (total / divisor).backward()
        with torch.no_grad():
            for part in model.parameters():
                part -= 0.3 * part.grad
    for (name, ours), (_, own) in zip(trainer.model.state_dict().items(), model.state_dict().items(), strict=True):
        assert_close(ours, own, rtol=1e-3, atol=1e-5, msg=name)


def test_drop_shortens_the_rows_of_trl_and_refuses_one_sequence(tmp_path):
    diet = {"keep": 1.0, "tokens": "random_tokens(keep=0.5, action=drop)"}
    trainer, *_ = trained(tmp_path / "a", READY, Diet(**diet), args={"num_train_epochs": 2})
    first, second = (result.tokens for result in trainer.epoch_results)
    assert second < first
    with pytest.raises(ArgumentError, match="action=drop does not go with packing or padding_free"):
        trained(
            tmp_path / "b", READY, Diet(**diet),
            args={"num_train_epochs": 2, "padding_free": True, "max_length": None},
        )  # fmt: skip


@pytest.mark.proves("ir_dro", by="definition")
@pytest.mark.parametrize("args", [{}, {"padding_free": True, "max_length": None}])
def test_weights_by_the_losses_at_hand_reach_the_fused_head(args, tmp_path):
    args = {**args, "per_device_train_batch_size": ROWS, "learning_rate": 0.3, "optim": "sgd", "max_grad_norm": 0.0}
    args |= {"lr_scheduler_type": "constant"}
    diet = Diet(keep=1.0, select="ir_dro(temperature=0.05, least=0)", warmup_epochs=0)
    trainer, losses, passes = trained(tmp_path, READY, diet, args=args)
    assert passes == 1
    model, sums, means = llama(), [], []
    for item in READY:
        ids, labels = torch.tensor([item["input_ids"]]), torch.tensor(item["labels"])
        places = (labels != -100).nonzero().flatten()
        nll = -model(ids).logits[0].log_softmax(-1)[places - 1, labels[places]]
        sums.append(nll.sum())
        means.append(nll.mean().item())
    factors = torch.from_numpy(dro_weights(means, 0.05)).float()
    tokens_trained = sum(sum(label != -100 for label in item["labels"]) for item in READY)
    loss = (torch.stack(sums) * factors).sum() / tokens_trained
    loss.backward()
    assert math.isclose(losses[0], loss.item(), rel_tol=1e-3)
    for (name, ours), own in zip(trainer.model.named_parameters(), model.parameters(), strict=True):
        assert_close(ours.detach(), (own - 0.3 * own.grad).detach(), rtol=1e-3, atol=1e-5, msg=name)


def test_a_part_of_every_batch_of_a_stream_trains(tmp_path):
    trainer = type("Diet", (DietMixin, trl.SFTTrainer), {})(
        model=llama(),
        args=trl.SFTConfig(
            str(tmp_path), max_steps=3, per_device_train_batch_size=BATCH, max_length=64, report_to="none",
            use_cpu=True, save_strategy="no", disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(PAIRS).to_iterable_dataset(),
        processing_class=TOKENIZER,
        diet=Diet(select="selective_backprop", keep=0.5, combine="mean"),
    )  # fmt: skip
    trainer.train()
    cost = trainer.ledger.snapshot()
    assert cost.examples_backward == len(scores_of(tmp_path)) < ROWS
    assert cost.examples_forward == ROWS + cost.examples_backward


def test_the_snippets_of_the_questions_run_as_they_are_written(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "instruction_tuning.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page.partition("## Questions")[2], re.DOTALL)
    llama().save_pretrained(tmp_path / "model")
    names = {"tokenizer": TOKENIZER}
    for place, block in enumerate(blocks):
        names["model"] = hf.LlamaForCausalLM.from_pretrained(tmp_path / "model")
        pairs = "DPOTrainer" in block
        names["args"] = settings(tmp_path / str(place), trl.DPOConfig if pairs else trl.SFTConfig, num_train_epochs=2)
        names["train"] = Dataset.from_list(ANSWERS if pairs else PAIRS)
        exec(block, names)
        kept = [line.kept for line in names["trainer"].epoch_results]
        assert kept == ([ROWS, BATCH] if place == 0 else [ROWS, ROWS])
        assert names["trainer"].diet.describe()["row_weights"] is (place > 0)
    assert [type(names[name]) for name in ("DietSFTTrainer", "DietDPOTrainer")] == [type, type]
    assert len(blocks) == 3
