"""Toys for the tests: tiny models, small data sets, runs of a second, and comparisons without training.

A new task needs one row in `TOYS`: its name, a function that makes examples, and the columns of its files.
"""

from __future__ import annotations

import csv
import functools
import gzip
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
import transformers as hf
from benchmarks.byte_lm import SHAPES, write_model
from numpy.typing import NDArray
from safetensors.torch import load_file
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor, nn

from datadiet.compare.plan import Plan, methods_from
from datadiet.compare.run import CellState
from datadiet.config import FinetuneConfig, read_config
from datadiet.data.schema import Examples
from datadiet.diet.diet import Diet
from datadiet.jobs.finetune import RunTrainer
from datadiet.store.tables import read_table
from datadiet.tasks.intent_slot import IntentSlotTask
from datadiet.tasks.joint_model import IntentSlotConfig, IntentSlotModel
from datadiet.tasks.sequence import ClassificationTask, RegressionTask
from datadiet.training.trainer import DietTrainer
from datadiet.types import EpochResult, Forecast, Silent, StepReport

# ---- tokenizers and models

KINDS = ("bert", "roberta", "distilbert", "deberta-v2", "electra")
KEYWORDS = ("amber", "birch", "cobalt", "denim", "ember", "fjord", "garnet", "hazel")
FILLERS = (
    "the", "a", "of", "and", "to", "in", "it", "is", "was", "for", "on", "with", "as", "by", "at", "from", "this",
)  # fmt: skip
ARTISTS = (("miles", "davis"), ("nina", "simone"), ("bach",), ("adele",))
CITIES = (("paris",), ("new", "york"), ("lima",), ("rio",))
DAYS = ("monday", "friday", "sunday")
CUES = ("play", "music", "weather", "forecast", "book", "table", "people", "two", "four", "next")
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'-"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
NAMES = [word for entry in (*ARTISTS, *CITIES) for word in entry]
WORDS = [word for word in dict.fromkeys((*KEYWORDS, *FILLERS, *NAMES, *DAYS, *CUES)) if len(word) > 1]


def _numbered(pieces: Sequence[str]) -> dict[str, int]:
    return {piece: number for number, piece in enumerate(pieces)}


def tiny_tokenizer(kind: str = "bert") -> hf.PreTrainedTokenizerBase:
    """A fast tokenizer with a vocabulary of about 150 pieces: toy words whole, other words letter by letter.

    `bert`, `distilbert` and `electra` share a WordPiece; `roberta` is a byte-level BPE without token types that needs
    `add_prefix_space`; `deberta-v2` is a Unigram. `distilbert` makes no token types.
    """
    if kind == "roberta":
        # "\u0120" stands for the space before a word
        steps = ((f"\u0120{word[:end]}", word[end]) for word in WORDS for end in range(len(word)))
        merges = list(dict.fromkeys(steps))
        pieces = ("<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(ByteLevel.alphabet()), *map("".join, merges))
        return hf.RobertaTokenizer(vocab=_numbered(pieces), merges=merges, model_max_length=60)
    if kind == "deberta-v2":
        costs = {0.0: SPECIAL, -9.0: ("▁", *LETTERS), -1.0: [f"▁{word}" for word in WORDS]}
        unigrams = [(piece, cost) for cost, pieces in costs.items() for piece in pieces]
        return hf.DebertaV2Tokenizer(vocab=unigrams, model_max_length=64)
    pieces = (*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS), *WORDS)
    tokenizer = hf.DistilBertTokenizer if kind == "distilbert" else hf.BertTokenizer
    return tokenizer(vocab=_numbered(pieces), model_max_length=64)


def tiny_config(kind: str = "bert", *, hidden: int = 16, layers: int = 2, dropout: float = 0.0) -> hf.PreTrainedConfig:
    """The config of a random encoder of the kind; `initializer_range` is large, so that it learns in a few steps."""
    tokenizer = tiny_tokenizer(kind)
    options: dict[str, Any] = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    options |= {"max_position_embeddings": 66, "initializer_range": 0.2}
    if kind == "distilbert":
        options |= {"dim": hidden, "hidden_dim": 2 * hidden, "n_layers": layers, "n_heads": 2}
        options |= {"dropout": dropout, "attention_dropout": dropout, "seq_classif_dropout": dropout}
        return hf.AutoConfig.for_model(kind, **options)
    options |= {"hidden_size": hidden, "intermediate_size": 2 * hidden, "num_attention_heads": 2}
    options |= {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout, "num_hidden_layers": layers}
    options["type_vocab_size"] = 1 if kind == "roberta" else 2
    if kind == "electra":
        options["embedding_size"] = hidden
    if kind == "deberta-v2":
        options |= {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False}
    return hf.AutoConfig.for_model(kind, **options)


def _seeded(seed: int, build: Callable[[], Any]) -> Any:
    """Build with seeded weights and leave the caller's random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build().eval()


def tiny_classifier(
    num_labels: int = 2, kind: str = "bert", *, dropout: float = 0.0, seed: int = 0, **sizes: int
) -> hf.PreTrainedModel:
    """A random sequence classifier in eval mode; `num_labels=1` is a regression (MSE)."""
    config = tiny_config(kind, dropout=dropout, **sizes)
    config.num_labels = num_labels
    if num_labels == 1:
        config.problem_type = "regression"
    return _seeded(seed, lambda: hf.AutoModelForSequenceClassification.from_config(config))


def tiny_intent_slot(
    intents: Sequence[str], slots: Sequence[str], kind: str = "bert", *, dropout: float = 0.0, **options: Any
) -> hf.PreTrainedModel:
    """A random joint model in eval mode; `options` are those of `IntentSlotConfig` (alpha, label_smoothing, ...)."""
    names = {"intent_names": intents, "slot_names": slots}
    config = IntentSlotConfig(tiny_config(kind, dropout=dropout), **names, dropout=dropout, **options)
    return _seeded(0, lambda: IntentSlotModel(config))


def tiny_model_folder(tmp_path: Path, kind: str = "bert", *, dropout: float = 0.0, seed: int = 0, **sizes: int) -> Path:
    """A folder with config, random weights and tokenizer of a bare encoder, usable as `--model FOLDER`."""
    folder, config = tmp_path / f"tiny-{kind}", tiny_config(kind, dropout=dropout, **sizes)
    _seeded(seed, lambda: hf.AutoModel.from_config(config)).save_pretrained(folder)
    tiny_tokenizer(kind).save_pretrained(folder)
    return folder


def tiny_lm_folder(tmp_path: Path, kind: str = "llama", *, chat: bool = True, **changes: Any) -> Path:
    """A folder with the config and tokenizer of a byte-level language model of 20,000 weights, and no weights."""
    sizes = {"n_embd": 32, "n_layer": 1} if kind == "gpt2" else {"hidden_size": 32, "num_hidden_layers": 1}
    sizes |= {} if kind == "gpt2" else {"head_dim": 8, "intermediate_size": 64}
    shape = next(one for one in SHAPES if one.startswith(kind))
    return write_model(tmp_path / f"tiny-{kind}-{chat}", shape, chat=chat, **{**sizes, **changes})


def tiny_batch(texts: list[str], kind: str = "bert") -> dict[str, Tensor]:
    """The texts as one padded batch of tensors, as a model takes it."""
    return dict(tiny_tokenizer(kind)(texts, padding=True, return_tensors="pt"))


# ---- data sets

INTENTS = ("book_table", "get_weather", "play_music")
SLOTS = ("B-artist", "B-city", "B-day", "B-people", "I-artist", "I-city", "O")
LEVELS = (0.0, 1.25, 2.5, 3.75, 5.0)


def _fillers(rng: np.random.Generator) -> list[str]:
    return [str(word) for word in rng.choice(FILLERS, size=int(rng.integers(3, 11)))]


def _sentence(rng: np.random.Generator, keyword: str) -> str:
    """Three to ten fillers around one keyword."""
    words = _fillers(rng)
    words.insert(int(rng.integers(0, len(words) + 1)), keyword)
    return " ".join(words)


def _balanced(rng: np.random.Generator, names: Sequence[Any], n: int) -> list[Any]:
    return [names[number] for number in rng.permutation(np.arange(n) % len(names))]


def _examples(name: str, seed: int, labels: list[Any] | None, **columns: Any) -> Examples:
    return Examples(ids=[f"{name}-{seed}-{row}" for row in range(len(columns["texts"]))], labels=labels, **columns)


def toy_classification(
    n: int, classes: int = 2, seed: int = 0, *, labelled: bool = True, pairs: bool = False
) -> Examples:
    """Sentences, or pairs; the label is the keyword that occurs, of a pair in the second sentence (at most 8 classes,
    balanced to within one)."""
    rng = np.random.default_rng([seed, 2 if pairs else 1])
    labels = _balanced(rng, KEYWORDS[:classes], n)
    columns = {"text_pairs" if pairs else "texts": [_sentence(rng, label) for label in labels]}
    if pairs:
        columns["texts"] = [_sentence(rng, str(rng.choice(FILLERS))) for _ in labels]
    return _examples("p" if pairs else "c", seed, labels if labelled else None, **columns)


toy_pairs = functools.partial(toy_classification, pairs=True)


def toy_regression(n: int, seed: int = 0, *, labelled: bool = True) -> Examples:
    """Sentence pairs with a similarity in [0, 5]: one of five levels by the keyword that both share, +- 0.2."""
    rng = np.random.default_rng([seed, 3])
    levels = _balanced(rng, range(len(LEVELS)), n)
    labels = [round(float(np.clip(LEVELS[level] + rng.uniform(-0.2, 0.2), 0, 5)), 3) for level in levels]
    pairs, texts = ([_sentence(rng, KEYWORDS[level]) for level in levels] for _ in range(2))
    return _examples("r", seed, labels if labelled else None, texts=texts, text_pairs=pairs)


def _request(rng: np.random.Generator, intent: str) -> list[tuple[str, str]]:
    """One tagged request; "zyxwv" is in no vocabulary, so it splits into letters."""
    artist, city = (
        [(word, f"{'I' if place else 'B'}-{name}") for place, word in enumerate(words[rng.integers(len(words))])]
        for name, words in (("artist", ARTISTS), ("city", CITIES))
    )
    day = (str(rng.choice(DAYS)), "B-day")
    lead = [(str(word), "O") for word in rng.choice((*FILLERS, "zyxwv"), size=int(rng.integers(0, 5)))]
    if intent == "play_music":
        return [*lead, ("play", "O"), *artist]
    if intent == "get_weather":
        return [*lead, ("weather", "O"), ("in", "O"), *city, ("on", "O"), day]
    return [*lead, ("book", "O"), ("table", "O"), ("for", "O"), ("two", "B-people"), ("in", "O"), *city]


def toy_intent_slot(n: int, seed: int = 0, *, labelled: bool = True) -> Examples:
    """Tagged requests: three `INTENTS`, seven `SLOTS`, each determined by the words themselves."""
    rng = np.random.default_rng([seed, 4])
    labels = _balanced(rng, INTENTS, n)
    tokens, slots = zip(*(tuple(zip(*_request(rng, label), strict=True)) for label in labels), strict=True)
    columns = {"tokens": list(tokens), "slots": list(slots) if labelled else None}
    return _examples("j", seed, labels if labelled else None, texts=[" ".join(words) for words in tokens], **columns)


def toy_tags(n: int, seed: int = 0, *, labelled: bool = True) -> Examples:
    """The requests of `toy_intent_slot` without their intents: seven `SLOTS`."""
    return replace(toy_intent_slot(n, seed, labelled=labelled), labels=None)


def toy_multi_label(n: int, classes: int = 3, seed: int = 0, *, labelled: bool = True) -> Examples:
    """Single sentences; the labels are the keywords that occur, any number of them."""
    rng = np.random.default_rng([seed, 5])
    labels = [tuple(sorted(np.array(KEYWORDS[:classes])[rng.random(classes) < 0.5].tolist())) for _ in range(n)]
    texts = [" ".join(rng.permutation([*_fillers(rng), *keywords]).tolist()) for keywords in labels]
    return _examples("m", seed, labels if labelled else None, texts=texts)


def dialogues(count: int = 32, start: int = 0) -> list[dict[str, Any]]:
    """Rows of a prompt and its answer, each prompt once; answers are the same for every second word."""
    words = KEYWORDS[:4]
    rows = range(start, start + count)
    return [{"id": f"d{n}", "prompt": f"{words[n % 4]} {n}?", "response": words[n % 2]} for n in rows]


def dialogue_folder(tmp_path: Path, count: int = 48) -> Path:
    """A folder of `dialogues`: train, and dev and test of 16 rows."""
    folder = tmp_path / "dialogues"
    folder.mkdir()
    for place, (split, rows) in enumerate((("train", count), ("dev", 16), ("test", 16))):
        write_rows(folder / f"{split}.jsonl", dialogues(rows, 1000 * place))
    return folder


@dataclass(frozen=True)
class Toy:
    """One kind of toy data and the columns it is written under."""

    task: str
    make: Callable[..., Examples]
    columns: dict[str, str]


PAIR = {"texts": "sentence1", "text_pairs": "sentence2", "labels": "label"}
TOYS = {
    "classification": Toy("classification", toy_classification, {"texts": "text", "labels": "label"}),
    "pairs": Toy("classification", toy_pairs, PAIR),
    "regression": Toy("regression", toy_regression, PAIR),
    "intent-slot": Toy("intent-slot", toy_intent_slot, {"tokens": "tokens", "slots": "slots", "labels": "intent"}),
    "multi-label": Toy("multi-label", toy_multi_label, {"texts": "text", "labels": "labels"}),
    "token-classification": Toy("token-classification", toy_tags, {"tokens": "tokens", "slots": "ner_tags"}),
}


def write_toy_folder(
    tmp_path: Path, task: str = "classification", n: int = 64, *, seed: int = 0, **options: Any
) -> Path:
    """Write train.jsonl (n rows), dev.jsonl and test.jsonl (n // 4 each, at least 4) and return the folder.

    `task` is a key of `TOYS`; `options` go to the toy function (`classes=3`).
    """
    toy, folder = TOYS[task], tmp_path / f"toy-{task}"
    folder.mkdir(parents=True, exist_ok=True)
    for offset, split in enumerate(("train", "dev", "test")):
        examples = toy.make(n if split == "train" else max(n // 4, 4), seed=3 * seed + offset, **options)
        columns = {"id": examples.ids} | {name: getattr(examples, field) for field, name in toy.columns.items()}
        columns = {name: values for name, values in columns.items() if values is not None}
        write_rows(folder / f"{split}.jsonl", rows_of(columns))
    return folder


Rows = Sequence[Mapping[str, Any]]


def write_rows(path: Path, rows: Rows) -> None:
    """Write rows in the format of the file's name."""
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if kind == "parquet":
        pa.parquet.write_table(pa.Table.from_pylist(list(rows)), path)
        return
    if kind in ("csv", "tsv"):
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="," if kind == "csv" else "\t")
            writer.writeheader()
            writer.writerows({k: " ".join(v) if isinstance(v, list) else v for k, v in row.items()} for row in rows)
    else:
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        path.write_text(json.dumps(list(rows)) if kind == "json" else lines, encoding="utf-8")
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(path.read_bytes()))


def rewrite(data: Path, split: str, change: Callable[[Any], Any]) -> None:
    """Change the rows of a split: `change(row)` gives the new row."""
    file = data / f"{split}.jsonl"
    write_rows(file, [change(json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()])


def sentences(count: int = 4, start: int = 0, labels: Sequence[Any] = ("neg", "pos")) -> list[dict[str, Any]]:
    """Rows of a two-class set, each text once."""
    return [{"text": f"text number {i}", "label": labels[i % len(labels)]} for i in range(start, start + count)]


def commands(count: int = 4, start: int = 0) -> list[dict[str, Any]]:
    """Rows of an intent and slot set."""
    rows = range(start, start + count)
    return [{"tokens": ["song", str(i)], "slots": ["O", "B-song"], "intent": ("play", "stop")[i % 2]} for i in rows]


HOSTILE = {
    "script": "</script><script>document.title='owned'</script><!--",
    "image": "<img src=x onerror=\"document.title='owned'\">",
    "word": "w" * 10_000,
    "arabic": "مرحبا بالعالم \u202e olleh",
    "emoji": "👩‍👩‍👧‍👦 🏳️‍🌈 z͑ͫ̓ͪ̂ͫ̽͏̴̙",
    "template": "{{ 7 * 7 }} {% raw %} ${7*7} $x^2$",
}


def hostile_folder(tmp_path: Path) -> Path:
    """A classification folder whose texts and labels are hostile."""
    folder, labels = tmp_path / "hostile", ("<b>bold</b>", "plain $a$")
    folder.mkdir()
    for split, count in (("train", 24), ("dev", 12), ("test", 12)):
        texts = [f"{split} text {row}" for row in range(count)]
        if split == "train":
            texts[: len(HOSTILE)] = HOSTILE.values()
        rows = [{"id": f"{split}-{row}", "text": text, "label": labels[row % 2]} for row, text in enumerate(texts)]
        write_rows(folder / f"{split}.jsonl", rows)
    return folder


# ---- tensors and plain modules


def rows_of(columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One mapping per row."""
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def stack(items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}


def toy_rows(n: int, classes: int = 3, kind: str = "bert", seed: int = 0) -> tuple[datasets.Dataset, Any]:
    """Tokenised rows of classes, and their collator."""
    task, tokenizer = ClassificationTask(tuple(KEYWORDS[:classes])), tiny_tokenizer(kind)
    data = task.features(toy_classification(n, classes, seed), tokenizer, max_length=32)
    return data, task.collator(tokenizer)


def toy_joint_rows(n: int, seed: int = 0) -> tuple[datasets.Dataset, Any]:
    """The same of intents and slots."""
    task, tokenizer = IntentSlotTask(INTENTS, SLOTS), tiny_tokenizer()
    return task.features(toy_intent_slot(n, seed), tokenizer, max_length=32), task.collator(tokenizer)


def toy_regression_rows(n: int) -> tuple[datasets.Dataset, Any]:
    """The same of numbers."""
    task, tokenizer = RegressionTask(), tiny_tokenizer()
    return task.features(toy_regression(n), tokenizer, max_length=32), task.collator(tokenizer)


def fit(model: nn.Module, x: Tensor, labels: Tensor, steps: int) -> nn.Module:
    """Train a plain module by Adam."""
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), labels).backward()
        optimizer.step()
    return model


def only_x(batch: dict[str, Tensor]) -> tuple[Tensor]:
    return (batch["x"],)


def from_x(outputs: Tensor, batch: dict[str, Any]) -> Tensor:
    return nn.functional.cross_entropy(outputs, batch["labels"], reduction="none")


def mlp(inputs: int = 5, hidden: int = 6, outputs: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, outputs))


def norm_alone(model: nn.Module, losses: Tensor, names: set[str] | None = None) -> float:
    """The norm of the gradient of one example's loss, by autograd."""
    parameters = [p for name, p in model.named_parameters() if names is None or name in names]
    gradients = torch.autograd.grad(losses.sum(), parameters, allow_unused=True)
    return float(torch.stack([part.square().sum() for part in gradients if part is not None]).sum().sqrt())


def weights(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


# ---- planted noise


@dataclass(frozen=True)
class Planted:
    """Values recorded in training forwards.

    Attributes:
        labels: int64 `(n,)`, as given, some wrong.
        flipped: bool `(n,)`.
        columns: float32 `(epochs, n)`: `loss`, `margin`, `el2n`, `gold_probability`, `moment`.
        held_out: float64 `(n, classes)`, probabilities of a model trained on other rows.
    """

    labels: NDArray[np.int64]
    flipped: NDArray[np.bool_]
    columns: dict[str, NDArray[np.float32]]
    held_out: NDArray[np.float64]

    def epoch(self, number: int) -> dict[str, NDArray[np.float32]]:
        return {name: values[number] for name, values in self.columns.items()}


def planted(
    rate: float, *, rows: int = 2000, classes: int = 5, apart: float = 4.0, by_heart: float = 0.0, epochs: int = 3,
    seed: int = 0, twins: int = 0,
) -> Planted:  # fmt: skip
    """Train on points of which the share `rate` has another label than its own; `apart` makes the classes easy, and
    with `by_heart` each row has a feature of its own, by which its label is learned, wrong or not. A tenth of the rows
    of the first `twins` classes are of as many other classes, the last ones, which nothing tells from them."""
    rng = np.random.default_rng([seed, rows, classes])
    centres = rng.normal(size=(classes, 16))
    centres *= apart / np.linalg.norm(centres, axis=1, keepdims=True)
    true = np.arange(rows) % (classes - twins)
    true[(true < twins) & (np.arange(rows) // (classes - twins) % 10 == 0)] += classes - twins
    centres[classes - twins :] = centres[:twins]
    points = np.c_[centres[true] + rng.normal(size=(rows, 16)), np.ones(rows)]
    if by_heart:
        points = np.c_[points, by_heart * np.eye(rows)]
    labels, flipped = true.copy(), np.zeros(rows, bool)
    flipped[rng.permutation(rows)[: round(rate * rows)]] = True
    labels[flipped] = (true[flipped] + rng.integers(1, classes, flipped.sum())) % classes
    weights = np.zeros((points.shape[1], classes))
    recorded = [_epoch(points, labels, weights, rng) for _ in range(epochs)]
    half, held_out = rng.permutation(rows) < rows // 2, np.empty((rows, classes))
    for part in (half, ~half):
        weights[:] = 0
        for _ in range(2):
            _epoch(points[~part], labels[~part], weights, rng)
        held_out[part] = _softmax(points[part] @ weights)
    return Planted(labels, flipped, {name: np.stack([one[name] for one in recorded]) for name in recorded[0]}, held_out)


def _epoch(points: Any, labels: Any, weights: Any, rng: Any, batch: int = 16, rate: float = 0.02) -> dict[str, Any]:
    """One epoch, `weights` updated in place; values of each row before its own step, as in a training forward."""
    order = rng.permutation(len(points))
    columns = ("loss", "margin", "rank", "el2n", "gold_probability", "moment")
    values = {name: np.empty(len(points), np.float32) for name in columns}
    for number, start in enumerate(range(0, len(order), batch)):
        rows = order[start : start + batch]
        logits = points[rows] @ weights
        p, one_hot, at = _softmax(logits), np.eye(weights.shape[1])[labels[rows]], np.arange(len(rows))
        gold = p[at, labels[rows]]
        others = np.where(one_hot == 1, -np.inf, logits).max(axis=1)
        values["loss"][rows], values["gold_probability"][rows] = -np.log(gold), gold
        values["margin"][rows] = others - logits[at, labels[rows]]
        values["rank"][rows] = (logits > logits[at, labels[rows], None]).sum(axis=1)
        values["el2n"][rows], values["moment"][rows] = np.linalg.norm(p - one_hot, axis=1), number + 1
        weights -= rate * points[rows].T @ (p - one_hot) / len(rows) * 4
    return values


def _softmax(logits: Any) -> Any:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


# ---- runs of `finetune`

SECONDS = ("load_s", "train_s", "score_s", "select_s", "eval_s", "save_s")


def toy_config(
    tmp_path: Path, kind: str = "classification", *, n: int = 48, dropout: float = 0.0, toy: Any = None, **changes: Any
) -> FinetuneConfig:
    """Batches of 8, 4 epochs, fp32, the hardest; `toy` goes to the toy data, `changes` to the config."""
    if "data" not in changes:
        changes["data"] = str(write_toy_folder(tmp_path, kind, n, **(toy or {})))
    if "model" not in changes:
        changes["model"] = str(tiny_model_folder(tmp_path, dropout=dropout))
    usual: dict[str, Any] = {"epochs": 4, "batch_size": 8, "learning_rate": 1e-2, "precision": "fp32"}
    usual["select"] = "hardest"
    return FinetuneConfig(**{"task": TOYS[kind].task, "output": str(tmp_path / "run"), **usual, **changes})


class Killed(Exception):
    """Ends a run in the middle."""


class Heard(Silent):
    """Records what a run reports; raises `Killed` at a step if asked to."""

    def __init__(self, die_at: int | None = None) -> None:
        self.notes, self.phases, self.forecasts, self.steps, self.epochs = [], [], [], [], []
        self.die_at = die_at

    def note(self, text: str) -> None:
        self.notes.append(text)

    def phase(self, text: str) -> None:
        self.phases.append(text)

    def planned(self, forecast: Forecast) -> None:
        self.forecasts.append(forecast)

    def epoch_ended(self, result: EpochResult) -> None:
        self.epochs.append(result)

    def stepped(self, report: StepReport) -> None:
        self.steps.append(report)
        if report.step == self.die_at:
            raise Killed


def plans_of(run: Path) -> dict[int, list[int]]:
    """Rows by epoch."""
    table = read_table(run / "plans").to_pandas()
    return {int(epoch): frame["row"].tolist() for epoch, frame in table.groupby("epoch")}


def scores_of(run: Path) -> pd.DataFrame:
    return read_table(run / "scores").to_pandas()


def predictions_of(run: Path, split: str | None = None) -> pd.DataFrame:
    table = pd.read_parquet(run / "predictions.parquet")
    return table if split is None else table[table["split"] == split].reset_index(drop=True)


def weights_of(run: Path) -> dict[str, Tensor]:
    return load_file(run / "model" / "model.safetensors")


def same(one: dict[str, Tensor], two: dict[str, Tensor], atol: float = 0.0) -> bool:
    return one.keys() == two.keys() and all(torch.allclose(one[name], two[name], rtol=0, atol=atol) for name in one)


class Logged(hf.TrainerCallback):
    """Learning rates step by step (`seen`), and what the Trainer logs of losses and rates."""

    def __init__(self) -> None:
        self.seen, self.losses, self.rates = [], [], []

    def on_step_end(self, args: Any, state: Any, control: Any, lr_scheduler: Any = None, **_: Any) -> None:
        self.seen.append(lr_scheduler.get_last_lr()[0])

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        if "loss" in logs:
            self.losses.append(logs["loss"])
            self.rates.append(logs["learning_rate"])


def watched(monkeypatch: pytest.MonkeyPatch) -> list[RunTrainer]:
    """Fills with the trainer of every run that follows, each with `rates`."""
    trainers: list[RunTrainer] = []

    class Watched(RunTrainer):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.rates = Logged()
            self.add_callback(self.rates)
            trainers.append(self)

    monkeypatch.setattr("datadiet.jobs.finetune.RunTrainer", Watched)
    return trainers


# ---- the Trainer on toys

# the default finds its rule by races on a dev split; most tests are about the rows that follow from known values
hard_diet = functools.partial(Diet, select="hardest")

CLASSES = 3
TASK = ClassificationTask(tuple(KEYWORDS[:CLASSES]))


@functools.cache
def toy_features(n: int = 48, seed: int = 0) -> datasets.Dataset:
    """The same object for the same numbers: a data set is not changed in place."""
    return TASK.features(toy_classification(n, CLASSES, seed), tiny_tokenizer(), max_length=32)


def toy_trainer(
    folder: Path, diet: Diet | None = None, *, kind: type = DietTrainer, n: int = 48, dropout: float = 0.0,
    dev: int = 8, model: Any = None, extra: dict[str, Any] | None = None, **changes: Any,
) -> Any:  # fmt: skip
    """4 epochs in batches of 4 on the CPU, and `dev` rows to evaluate; `extra` goes to the trainer, `changes` to its
    arguments."""
    usual = {"num_train_epochs": 4, "per_device_train_batch_size": 4, "learning_rate": 1e-3, "logging_steps": 1}
    usual |= {"save_strategy": "no", "report_to": "none", "disable_tqdm": True, "seed": 3}
    usual |= {"use_cpu": True, "dataloader_pin_memory": False}
    if model is None:
        model = tiny_classifier(CLASSES, dropout=dropout)
        model.accepts_loss_kwargs = False  # its loss is a mean; else the Trainer does not divide by the accumulation
    logged = Logged()
    given: dict[str, Any] = {"callbacks": [logged], "eval_dataset": toy_features(dev, seed=1)}
    given["train_dataset"] = toy_features(n)
    trainer = kind(
        model=model,
        args=hf.TrainingArguments(str(folder), **{**usual, **changes}),
        data_collator=TASK.collator(tiny_tokenizer()),
        **{**given, **({} if diet is None else {"diet": diet}), **(extra or {})},
    )
    trainer.seen = logged
    return trainer


# ---- comparisons without training

ROWS = 200
OPTIONS = {"data": "made-up", "task": "classification", "epochs": 4, "batch_size": 10}
SKILL = {"full": 0.9, "el2n": 0.89, "random": 0.8, "short": 0.88}


def made_up_plan(*methods: Any, **changes: Any) -> Plan:
    """Without the baseline `cover`, which stands where `random` does."""
    usual = {"options": OPTIONS, "methods": methods_from(methods or ["el2n"]), "keeps": [0.5], "seeds": [0, 1, 2]}
    usual["baselines"] = ["full", "random", "short"]
    return Plan(**{**usual, **changes})


def pretend(config_file: str, folder: Path | None = None) -> None:
    """Write the run folder of a config, there or elsewhere; its quality goes by the name of the method."""
    config = read_config(Path(config_file))
    method = Path(config.output).name.split("-")[0]
    folder = Path(config.output) if folder is None else folder
    gold = np.arange(ROWS) % 2
    right = np.random.default_rng(config.seed).random(ROWS) < SKILL.get(method, 0.85)  # the same rows are hard for all
    right ^= np.random.default_rng([config.seed, len(method)]).random(ROWS) < 0.01
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(config.to_yaml())
    columns = {"split": "test", "id": [f"{row:03d}" for row in range(ROWS)], "gold": gold.astype(str)}
    columns |= {"predicted": np.where(right, gold, 1 - gold).astype(str), "probability": 0.9}
    pd.DataFrame(columns).to_parquet(folder / "predictions.parquet")
    kept = 1.0 if config.keep == 1.0 and config.max_steps is None else 0.5
    seconds = 100 * kept + config.seed
    result = {
        "schema": 1, "task": config.task, "model": "tiny", "seed": config.seed,
        "diet": {"score": config.score},
        "data": {"name": "made-up", "fingerprint": "abc", "rows": {"train": 100, "dev": 50, "test": ROWS}},
        "metrics": {"dev": None, "test": {"accuracy": float(right.mean()), "nll": 0.3}},
        "epochs": [
            {
                "epoch": epoch, "kept": 100, "dropped": 0, "steps": 10, "seconds": seconds / 4, "score_s": 0.0,
                "dev": {"accuracy": 0.5 + epoch / 10},
            }
            for epoch in range(4)
        ],
        "cost": {
            "load_s": 4.0, "train_s": seconds, "score_s": 0.0, "select_s": 0.0, "eval_s": 4.0, "save_s": 2.0,
            "finetune_s": seconds, "total_s": seconds + 10, "tokens_backward": int(1000 * kept),
            "tokens_padded": int(1250 * kept),
        },
        "ceiling": {"examples_saved": 1 - kept, "tokens_saved": 1 - kept},
        "environment": {"cpu": "a CPU"},
    }  # fmt: skip
    (folder / "result.json").write_text(json.dumps(result))


def pretended_states(plan: Plan, folder: Path) -> list[CellState]:
    """The finished runs of a plan, each written under `folder/runs`."""
    states = []
    for cell in plan.cells():
        config, run = folder / f"{cell.name}.yaml", folder / "runs" / cell.name
        config.write_text(plan.config(cell, str(run), rows=100, steps=40).to_yaml())
        pretend(str(config))
        states.append(CellState(cell, "done", jobs=1, result=json.loads((run / "result.json").read_text())))
    return states


# the processes of pretended runs import next to nothing: there are hundreds of them
FAIL = "import sys; sys.stderr.write('some noise\\nerror: no such model \\'x\\'\\n'); sys.exit(2)"
MOVE = "import os, sys; os.rename(*sys.argv[1:])"


def pretend_runs(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Cells of a comparison leave a result at once, whatever their options; those of methods in the set fail.

    The run folder of a cell is written here, beside its place, and the cell's process moves it there.
    """
    from datadiet.compare import run

    failing: set[str] = set()
    real = run._Runner._command

    def command(self: Any, cell: Any, rows: int | None) -> list[str]:
        arguments = real(self, cell, rows)
        if cell.method in failing:
            return [sys.executable, "-I", "-S", "-c", FAIL]
        folder = Path(read_config(Path(arguments[-1])).output)
        written = folder.with_name(f"{folder.name}.written")
        pretend(arguments[-1], written)
        return [sys.executable, "-I", "-S", "-c", MOVE, str(written), str(folder)]

    monkeypatch.setattr(run._Runner, "_command", command)
    monkeypatch.setattr("datadiet.jobs.validate.check_config", lambda config, **_: None)
    monkeypatch.setattr("datadiet.data.load.load_configured", lambda config: None)
    monkeypatch.setattr("datadiet.jobs.validate.check_with_data", lambda *_: None)
    return failing
