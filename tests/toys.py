"""Toys for the tests: tiny models, small data sets, runs of a second, and comparisons that are pretended."""

from __future__ import annotations

import csv
import functools
import gzip
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import TrainerCallback, TrainingArguments

from datadiet.compare.plan import Plan, methods_from
from datadiet.compare.run import CellState
from datadiet.config import FinetuneConfig, read_config
from datadiet.diet.diet import Diet
from datadiet.jobs.finetune import RunTrainer
from datadiet.store.tables import read_table
from datadiet.tasks.intent_slot import IntentSlotTask
from datadiet.tasks.sequence import ClassificationTask, RegressionTask
from datadiet.training.trainer import DietTrainer
from datadiet.types import EpochResult, Forecast, Silent, StepReport

# ---- tiny models and toy data

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from datadiet.data.schema import Examples

KINDS = ("bert", "roberta", "distilbert", "deberta-v2", "electra")
KEYWORDS = ("amber", "birch", "cobalt", "denim", "ember", "fjord", "garnet", "hazel")
FILLERS = (
    "the",
    "a",
    "of",
    "and",
    "to",
    "in",
    "it",
    "is",
    "was",
    "for",
    "on",
    "with",
    "as",
    "by",
    "at",
    "from",
    "this",
)
ARTISTS = (("miles", "davis"), ("nina", "simone"), ("bach",), ("adele",))
CITIES = (("paris",), ("new", "york"), ("lima",), ("rio",))
DAYS = ("monday", "friday", "sunday")
CUES = ("play", "music", "weather", "forecast", "book", "table", "people", "two", "four", "next")
LEVELS = (0.0, 1.25, 2.5, 3.75, 5.0)
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'-"


# ---------------------------------------------------------------------------------------------------- tokenizers


def vocabulary() -> list[str]:
    """Every word of the toy data as one piece, and single characters for all others."""
    names = [word for entry in (*ARTISTS, *CITIES) for word in entry]
    words = dict.fromkeys((*KEYWORDS, *FILLERS, *names, *DAYS, *CUES))
    return [word for word in words if len(word) > 1]


@functools.cache
def _wordpiece() -> tuple[str, ...]:
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    return (*special, *_LETTERS, *(f"##{letter}" for letter in _LETTERS), *vocabulary())


def _bert_tokenizer(kind: str) -> PreTrainedTokenizerBase:
    from transformers import BertTokenizer, DistilBertTokenizer

    vocab = {piece: number for number, piece in enumerate(_wordpiece())}
    return (DistilBertTokenizer if kind == "distilbert" else BertTokenizer)(vocab=vocab, model_max_length=64)


@functools.cache
def _byte_pairs() -> tuple[dict[str, int], list[tuple[str, str]]]:
    from tokenizers.pre_tokenizers import ByteLevel

    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(ByteLevel.alphabet())]
    merges = []
    for word in vocabulary():
        for end in range(1, len(word) + 1):  # "\u0120" stands for the space before a word
            left, right = "\u0120" + word[: end - 1], word[end - 1]
            if left + right not in pieces:
                merges.append((left, right))
                pieces.append(left + right)
    return {piece: number for number, piece in enumerate(pieces)}, merges


def _roberta_tokenizer() -> PreTrainedTokenizerBase:
    from transformers import RobertaTokenizer

    vocab, merges = _byte_pairs()
    return RobertaTokenizer(vocab=dict(vocab), merges=list(merges), model_max_length=60)


def _deberta_tokenizer() -> PreTrainedTokenizerBase:
    from transformers import DebertaV2Tokenizer

    special = [(piece, 0.0) for piece in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")]
    letters = [(letter, -9.0) for letter in ("▁", *_LETTERS)]
    return DebertaV2Tokenizer(
        vocab=[*special, *letters, *(("▁" + word, -1.0) for word in vocabulary())], model_max_length=64
    )


def tiny_tokenizer(kind: str = "bert") -> PreTrainedTokenizerBase:
    """A fast tokenizer with a vocabulary of about 150 pieces: toy words whole, other words letter by letter.

    `bert`, `distilbert` and `electra` share a WordPiece; `roberta` is a byte-level BPE without token types that needs
    `add_prefix_space`; `deberta-v2` is a Unigram. `distilbert` makes no token types.
    """
    if kind == "roberta":
        return _roberta_tokenizer()
    if kind == "deberta-v2":
        return _deberta_tokenizer()
    return _bert_tokenizer(kind)


# -------------------------------------------------------------------------------------------------------- models


def tiny_config(kind: str = "bert", *, hidden: int = 16, layers: int = 2, dropout: float = 0.0) -> PreTrainedConfig:
    """The config of a random encoder of the kind; `initializer_range` is large, so that it learns in a few steps."""
    from transformers import AutoConfig

    tokenizer = tiny_tokenizer(kind)
    shared: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "max_position_embeddings": 66,
        "initializer_range": 0.2,
    }
    if kind == "distilbert":
        sizes = {"dim": hidden, "hidden_dim": 2 * hidden, "n_layers": layers, "n_heads": 2}
        drop = {"dropout": dropout, "attention_dropout": dropout, "seq_classif_dropout": dropout}
        return AutoConfig.for_model(kind, **shared, **sizes, **drop)
    sizes = {"hidden_size": hidden, "intermediate_size": 2 * hidden}
    depth = {"num_hidden_layers": layers, "num_attention_heads": 2}
    drop = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    extra: dict[str, Any] = {"type_vocab_size": 1 if kind == "roberta" else 2}
    if kind == "electra":
        extra["embedding_size"] = hidden
    if kind == "deberta-v2":
        extra |= {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False}
    return AutoConfig.for_model(kind, **shared, **sizes, **depth, **drop, **extra)


def _seeded(seed: int, build: Callable[[], Any]) -> Any:
    """Build with seeded weights and leave the caller's random state as it was."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def tiny_classifier(
    num_labels: int = 2, kind: str = "bert", *, dropout: float = 0.0, seed: int = 0, **sizes: int
) -> PreTrainedModel:
    """A random sequence classifier in eval mode; `num_labels=1` is a regression (MSE)."""
    from transformers import AutoModelForSequenceClassification

    config = tiny_config(kind, dropout=dropout, **sizes)
    config.num_labels = num_labels
    if num_labels == 1:
        config.problem_type = "regression"
    return _seeded(seed, lambda: AutoModelForSequenceClassification.from_config(config)).eval()


def tiny_intent_slot(
    intents: tuple[str, ...],
    slots: tuple[str, ...],
    kind: str = "bert",
    *,
    dropout: float = 0.0,
    seed: int = 0,
    **options: Any,
) -> PreTrainedModel:
    """A random joint model in eval mode; `options` are those of `IntentSlotConfig` (alpha, label_smoothing, ...)."""
    from datadiet.tasks.joint_model import IntentSlotConfig, IntentSlotModel

    config = IntentSlotConfig(
        encoder=tiny_config(kind, dropout=dropout),
        intent_names=intents,
        slot_names=slots,
        dropout=dropout,
        **options,
    )
    return _seeded(seed, lambda: IntentSlotModel(config)).eval()


def tiny_model_folder(tmp_path: Path, kind: str = "bert", *, dropout: float = 0.0, seed: int = 0, **sizes: int) -> Path:
    """A folder with config, random weights and tokenizer of a bare encoder, usable as `--model FOLDER`."""
    from transformers import AutoModel

    folder = tmp_path / f"tiny-{kind}"
    config = tiny_config(kind, dropout=dropout, **sizes)
    _seeded(seed, lambda: AutoModel.from_config(config)).save_pretrained(folder)
    tiny_tokenizer(kind).save_pretrained(folder)
    return folder


def tiny_batch(texts: list[str], kind: str = "bert", pairs: list[str] | None = None) -> dict[str, torch.Tensor]:
    """The texts as one padded batch of tensors, as a model takes it."""
    return dict(tiny_tokenizer(kind)(texts, pairs, padding=True, return_tensors="pt"))


# ------------------------------------------------------------------------------------------------------ toy data


def _sentence(rng: np.random.Generator, keyword: str) -> str:
    """Three to ten fillers around one keyword."""
    words = [str(word) for word in rng.choice(FILLERS, size=int(rng.integers(3, 11)))]
    words.insert(int(rng.integers(0, len(words) + 1)), keyword)
    return " ".join(words)


def _examples(name: str, seed: int, labels: list[Any] | None, **columns: Any) -> Examples:
    from datadiet.data.schema import Examples

    count = len(columns["texts"])
    given = {"text_pairs": None, "tokens": None, "slots": None} | columns
    return Examples(ids=[f"{name}-{seed}-{row}" for row in range(count)], labels=labels, **given)


def toy_classification(n: int, classes: int = 2, seed: int = 0, *, labelled: bool = True) -> Examples:
    """Single sentences; the label is the keyword that occurs (at most 8 classes, balanced to within one)."""
    rng = np.random.default_rng([seed, 1])
    labels = [KEYWORDS[number] for number in rng.permutation(np.arange(n) % classes)]
    texts = [_sentence(rng, label) for label in labels]
    return _examples("c", seed, labels if labelled else None, texts=texts)


def toy_pairs(n: int, classes: int = 2, seed: int = 0, *, labelled: bool = True) -> Examples:
    """Sentence pairs; the label is the keyword of the second sentence."""
    rng = np.random.default_rng([seed, 2])
    labels = [KEYWORDS[number] for number in rng.permutation(np.arange(n) % classes)]
    pairs = [_sentence(rng, label) for label in labels]
    texts = [_sentence(rng, str(rng.choice(FILLERS))) for _ in labels]
    return _examples("p", seed, labels if labelled else None, texts=texts, text_pairs=pairs)


def toy_regression(n: int, seed: int = 0, *, labelled: bool = True) -> Examples:
    """Sentence pairs with a similarity in [0, 5]: one of five levels by the keyword that both share, +- 0.2."""
    rng = np.random.default_rng([seed, 3])
    levels = rng.permutation(np.arange(n) % len(LEVELS))
    labels = [round(float(np.clip(LEVELS[level] + rng.uniform(-0.2, 0.2), 0, 5)), 3) for level in levels]
    pairs = [_sentence(rng, KEYWORDS[level]) for level in levels]
    texts = [_sentence(rng, KEYWORDS[level]) for level in levels]
    return _examples("r", seed, labels if labelled else None, texts=texts, text_pairs=pairs)


def _span(words: tuple[str, ...], name: str) -> list[tuple[str, str]]:
    return [(word, f"{'I' if place else 'B'}-{name}") for place, word in enumerate(words)]


def _request(rng: np.random.Generator, intent: str) -> list[tuple[str, str]]:
    """One tagged request; "zyxwv" is in no vocabulary, so it splits into letters."""
    artist, city = ARTISTS[rng.integers(len(ARTISTS))], CITIES[rng.integers(len(CITIES))]
    day = [(str(rng.choice(DAYS)), "B-day")]
    lead = [(str(word), "O") for word in rng.choice((*FILLERS, "zyxwv"), size=int(rng.integers(0, 5)))]
    if intent == "play_music":
        return [*lead, ("play", "O"), *_span(artist, "artist")]
    if intent == "get_weather":
        return [*lead, ("weather", "O"), ("in", "O"), *_span(city, "city"), ("on", "O"), *day]
    return [*lead, ("book", "O"), ("table", "O"), ("for", "O"), ("two", "B-people"), ("in", "O"), *_span(city, "city")]


INTENTS = ("book_table", "get_weather", "play_music")
SLOTS = ("B-artist", "B-city", "B-day", "B-people", "I-artist", "I-city", "O")


def toy_intent_slot(n: int, seed: int = 0, *, labelled: bool = True) -> Examples:
    """Tagged requests: three `INTENTS`, seven `SLOTS`, each told by the words themselves."""
    rng = np.random.default_rng([seed, 4])
    labels = [INTENTS[number] for number in rng.permutation(np.arange(n) % len(INTENTS))]
    tagged = [_request(rng, label) for label in labels]
    tokens = [tuple(word for word, _ in request) for request in tagged]
    slots = [tuple(slot for _, slot in request) for request in tagged] if labelled else None
    texts = [" ".join(words) for words in tokens]
    return _examples("j", seed, labels if labelled else None, texts=texts, tokens=tokens, slots=slots)


def toy_tags(n: int, seed: int = 0, *, labelled: bool = True) -> Examples:
    """The requests of `toy_intent_slot` without their intents: seven `SLOTS`."""
    return replace(toy_intent_slot(n, seed, labelled=labelled), labels=None)


def toy_multi_label(n: int, classes: int = 3, seed: int = 0, *, labelled: bool = True) -> Examples:
    """Single sentences; the labels are the keywords that occur, any number of them."""
    rng = np.random.default_rng([seed, 5])
    labels = [tuple(sorted(np.array(KEYWORDS[:classes])[rng.random(classes) < 0.5].tolist())) for _ in range(n)]
    texts = [_sentence_with(rng, found) for found in labels]
    return _examples("m", seed, labels if labelled else None, texts=texts)


def _sentence_with(rng: np.random.Generator, keywords: tuple[str, ...]) -> str:
    words = [str(word) for word in rng.choice(FILLERS, size=int(rng.integers(3, 11)))]
    return " ".join(str(word) for word in rng.permutation([*words, *keywords]))


@dataclass(frozen=True)
class Toy:
    """One kind of toy data and the columns it is written under."""

    task: str
    make: Callable[..., Examples]
    columns: dict[str, str]


TOYS = {
    "classification": Toy("classification", toy_classification, {"texts": "text", "labels": "label"}),
    "pairs": Toy("classification", toy_pairs, {"texts": "sentence1", "text_pairs": "sentence2", "labels": "label"}),
    "regression": Toy(
        "regression", toy_regression, {"texts": "sentence1", "text_pairs": "sentence2", "labels": "label"}
    ),
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
    toy = TOYS[task]
    folder = tmp_path / f"toy-{task}"
    folder.mkdir(parents=True, exist_ok=True)
    for offset, split in enumerate(("train", "dev", "test")):
        rows = n if split == "train" else max(n // 4, 4)
        examples = toy.make(rows, seed=3 * seed + offset, **options)
        (folder / f"{split}.jsonl").write_text(_lines(examples, toy.columns), encoding="utf-8")
    return folder


def _lines(examples: Examples, columns: dict[str, str]) -> str:
    named = {"id": examples.ids} | {name: getattr(examples, field) for field, name in columns.items()}
    given = {name: values for name, values in named.items() if values is not None}
    rows = (dict(zip(given, row, strict=True)) for row in zip(*given.values(), strict=True))
    return "".join(json.dumps(row) + "\n" for row in rows)


# ---- rows for small data sets, in every format

Rows = Sequence[Mapping[str, Any]]


def as_jsonl(rows: Rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def write_rows(path: Path, rows: Rows) -> None:
    """Write rows in the format that the file's name says."""
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(list(rows)), path)
        return
    if kind in ("csv", "tsv"):
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="," if kind == "csv" else "\t")
            writer.writeheader()
            writer.writerows({k: " ".join(v) if isinstance(v, list) else v for k, v in row.items()} for row in rows)
    else:
        path.write_text(json.dumps(list(rows)) if kind == "json" else as_jsonl(rows), encoding="utf-8")
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(path.read_bytes()))


def sentences(count: int = 4, start: int = 0, labels: Sequence[Any] = ("neg", "pos")) -> list[dict[str, Any]]:
    """Rows of a two-class set, each text once."""
    return [{"text": f"text number {i}", "label": labels[i % len(labels)]} for i in range(start, start + count)]


def commands(count: int = 4, start: int = 0) -> list[dict[str, Any]]:
    """Rows of an intent and slot set."""
    intents = ("play", "stop")
    return [
        {"tokens": ["song", str(i)], "slots": ["O", "B-song"], "intent": intents[i % 2]}
        for i in range(start, start + count)
    ]


# ---- hostile data

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
    folder = tmp_path / "hostile"
    folder.mkdir()
    texts = list(HOSTILE.values())
    for split, count in (("train", 24), ("dev", 12), ("test", 12)):
        lines = [
            {
                "id": f"{split}-{row}",
                "text": texts[row] if split == "train" and row < len(texts) else f"{split} text {row}",
                "label": ("<b>bold</b>", "plain $a$")[row % 2],
            }
            for row in range(count)
        ]
        content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (folder / f"{split}.jsonl").write_text(content, encoding="utf-8")
    return folder


# ---- tensors and plain modules, for gradients

Item = dict[str, Tensor]


def rows_of(columns: dict[str, Tensor]) -> list[Item]:
    """One mapping per row."""
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def stack(items: list[Item]) -> dict[str, Tensor]:
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
    held = [p for name, p in model.named_parameters() if names is None or name in names]
    found = torch.autograd.grad(losses.sum(), held, allow_unused=True)
    return float(torch.stack([part.square().sum() for part in found if part is not None]).sum().sqrt())


# ---- planted noise


@dataclass(frozen=True)
class Planted:
    """What training forwards saw.

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
    rate: float,
    *,
    rows: int = 2000,
    classes: int = 5,
    apart: float = 4.0,
    by_heart: float = 0.0,
    epochs: int = 3,
    seed: int = 0,
) -> Planted:
    """Train on points of which the share `rate` has another label than its own; `apart` makes the classes easy, and
    with `by_heart` each row has a feature of its own, by which its label is learned, wrong or not."""
    rng = np.random.default_rng([seed, rows, classes])
    points, true = _points(rng, rows, classes, apart)
    if by_heart:
        points = np.c_[points, by_heart * np.eye(rows)]
    labels, flipped = true.copy(), np.zeros(rows, bool)
    flipped[rng.permutation(rows)[: round(rate * rows)]] = True
    labels[flipped] = (true[flipped] + rng.integers(1, classes, flipped.sum())) % classes
    weights = np.zeros((points.shape[1], classes))
    seen = [_epoch(points, labels, weights, rng) for _ in range(epochs)]
    other = np.zeros((points.shape[1], classes))
    half = rng.permutation(rows) < rows // 2
    held_out = np.empty((rows, classes))
    for part in (half, ~half):
        other[:] = 0
        for _ in range(2):
            _epoch(points[~part], labels[~part], other, rng)
        held_out[part] = _softmax(points[part] @ other)
    return Planted(labels, flipped, {name: np.stack([one[name] for one in seen]) for name in seen[0]}, held_out)


def _points(rng, rows, classes, apart):
    centres = rng.normal(size=(classes, 16))
    centres *= apart / np.linalg.norm(centres, axis=1, keepdims=True)
    true = np.arange(rows) % classes
    return np.c_[centres[true] + rng.normal(size=(rows, 16)), np.ones(rows)], true


def _epoch(points, labels, weights, rng, batch=16, rate=0.02):
    """One epoch, `weights` updated in place; values of each row before its own step, as in a training forward."""
    order = rng.permutation(len(points))
    found = {
        name: np.empty(len(points), np.float32) for name in ("loss", "margin", "el2n", "gold_probability", "moment")
    }
    for number, start in enumerate(range(0, len(order), batch)):
        rows = order[start : start + batch]
        logits = points[rows] @ weights
        p, one_hot, at = _softmax(logits), np.eye(weights.shape[1])[labels[rows]], np.arange(len(rows))
        gold = p[at, labels[rows]]
        others = np.where(one_hot == 1, -np.inf, logits).max(axis=1)
        found["loss"][rows], found["gold_probability"][rows] = -np.log(gold), gold
        found["margin"][rows] = others - logits[at, labels[rows]]
        found["el2n"][rows], found["moment"][rows] = np.linalg.norm(p - one_hot, axis=1), number + 1
        weights -= rate * points[rows].T @ (p - one_hot) / len(rows) * 4
    return found


def _softmax(logits):
    found = np.exp(logits - logits.max(axis=1, keepdims=True))
    return found / found.sum(axis=1, keepdims=True)


# ---- runs of `finetune`

SECONDS = ("load_s", "train_s", "score_s", "select_s", "eval_s", "save_s")


def toy_config(
    tmp_path: Path, kind: str = "classification", *, n: int = 48, dropout: float = 0.0, toy: Any = None, **changes: Any
) -> FinetuneConfig:
    """Batches of 8, 4 epochs, fp32; `toy` goes to the toy data, `changes` to the config."""
    if "data" not in changes:
        changes["data"] = str(write_toy_folder(tmp_path, kind, n, **(toy or {})))
    if "model" not in changes:
        changes["model"] = str(tiny_model_folder(tmp_path, dropout=dropout))
    usual: dict[str, Any] = {"epochs": 4, "batch_size": 8, "learning_rate": 1e-2, "precision": "fp32"}
    return FinetuneConfig(**{"task": TOYS[kind].task, "output": str(tmp_path / "run"), **usual, **changes})


class Heard(Silent):
    """Keeps what it is told; raises at a step if asked to, as a kill would."""

    def __init__(self, die_at: int | None = None) -> None:
        self.notes: list[str] = []
        self.phases: list[str] = []
        self.forecasts: list[Forecast] = []
        self.steps: list[StepReport] = []
        self.epochs: list[EpochResult] = []
        self._die_at = die_at

    def note(self, text: str) -> None:
        self.notes.append(text)

    def phase(self, text: str) -> None:
        self.phases.append(text)

    def planned(self, forecast: Forecast) -> None:
        self.forecasts.append(forecast)

    def stepped(self, report: StepReport) -> None:
        self.steps.append(report)
        if report.step == self._die_at:
            raise Killed

    def epoch_ended(self, result: EpochResult) -> None:
        self.epochs.append(result)


class Killed(Exception):
    """Ends a run in the middle."""


def plans_of(run: Path) -> dict[int, list[int]]:
    """Rows by epoch."""
    table = read_table(run / "plans").to_pandas()
    return {int(epoch): frame["row"].tolist() for epoch, frame in table.groupby("epoch")}


def scores_of(run: Path) -> pd.DataFrame:
    return read_table(run / "scores").to_pandas()


def predictions_of(run: Path, split: str | None = None) -> pd.DataFrame:
    table = pd.read_parquet(run / "predictions.parquet")
    return table if split is None else table[table["split"] == split].reset_index(drop=True)


def rewrite(data: Path, split: str, change: Any) -> None:
    """Change the rows of a split: `change(row)` gives the new row."""
    import json

    file = data / f"{split}.jsonl"
    rows = [change(json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor], atol: float = 0.0) -> bool:
    return one.keys() == two.keys() and all(torch.allclose(one[name], two[name], rtol=0, atol=atol) for name in one)


class Rates(TrainerCallback):
    """Learning rates, step by step."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, lr_scheduler: Any = None, **_kwargs: Any) -> None:
        self.seen.append(lr_scheduler.get_last_lr()[0])


def watched(monkeypatch: pytest.MonkeyPatch) -> list[RunTrainer]:
    """Fills with the trainer of every run that follows, each with `rates`."""
    made: list[RunTrainer] = []

    class Watched(RunTrainer):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.rates = Rates()
            self.add_callback(self.rates)
            made.append(self)

    monkeypatch.setattr("datadiet.jobs.finetune.RunTrainer", Watched)
    return made


# ---- the Trainer on toys

CLASSES = 3
TASK = ClassificationTask(tuple(KEYWORDS[:CLASSES]))


def toy_features(n: int = 48, seed: int = 0) -> datasets.Dataset:
    return TASK.features(toy_classification(n, CLASSES, seed), tiny_tokenizer(), max_length=32)


class Losses(TrainerCallback):
    """What the Trainer logs: losses and learning rates, step by step."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.rates: list[float] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        if "loss" in logs:
            self.losses.append(logs["loss"])
            self.rates.append(logs["learning_rate"])


def toy_args(folder: Path, **changes: Any) -> TrainingArguments:
    settings: dict[str, Any] = {
        "num_train_epochs": 4,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "seed": 3,
        **changes,
    }
    return TrainingArguments(output_dir=str(folder), **settings)


def toy_trainer(
    folder: Path,
    diet: Diet | None = None,
    *,
    kind: type = DietTrainer,
    n: int = 48,
    dropout: float = 0.0,
    model: Any = None,
    extra: dict[str, Any] | None = None,
    **changes: Any,
) -> Any:
    given = {} if diet is None else {"diet": diet}
    losses = Losses()
    if model is None:
        model = tiny_classifier(CLASSES, dropout=dropout)
        model.accepts_loss_kwargs = False  # its loss is a mean; else the Trainer does not divide by the accumulation
    trainer = kind(
        model=model,
        args=toy_args(folder, **changes),
        train_dataset=toy_features(n),
        eval_dataset=toy_features(8, seed=1),
        data_collator=TASK.collator(tiny_tokenizer()),
        **{"callbacks": [losses], **given, **(extra or {})},
    )
    trainer.seen = losses
    return trainer


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


# ---- pretended comparisons

if TYPE_CHECKING:
    import pytest

ROWS = 200
SKILL = {"full": 0.9, "el2n": 0.89, "random": 0.8, "short": 0.88}
OPTIONS = {"data": "made-up", "task": "classification", "epochs": 4, "batch_size": 10}


def made_up_plan(*methods: Any, **changes: Any) -> Plan:
    usual = {"options": OPTIONS, "methods": methods_from(methods or ["el2n"]), "keeps": [0.5], "seeds": [0, 1, 2]}
    return Plan(**{**usual, **changes})


def pretend(config_file: str, folder: Path | None = None) -> None:
    """Write the run folder of a config, there or elsewhere; its quality goes by the name of the method."""
    config = read_config(Path(config_file))
    method = Path(config.output).name.split("-")[0]
    folder = Path(config.output) if folder is None else folder
    rng = np.random.default_rng([config.seed, len(method)])
    gold = np.arange(ROWS) % 2
    right = np.random.default_rng(config.seed).random(ROWS) < SKILL.get(method, 0.85)  # the same rows are hard for all
    right ^= rng.random(ROWS) < 0.01
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(config.to_yaml())
    predicted = np.where(right, gold, 1 - gold)
    pd.DataFrame(
        {"split": "test", "id": [f"{row:03d}" for row in range(ROWS)], "gold": gold.astype(str)}
        | {"predicted": predicted.astype(str), "probability": 0.9}
    ).to_parquet(folder / "predictions.parquet")
    kept = 1.0 if config.keep == 1.0 and config.max_steps is None else 0.5
    seconds = 100 * kept + config.seed
    result = {
        "schema": 1, "task": config.task, "model": "tiny", "seed": config.seed,
        "diet": {"score": config.score},
        "data": {"name": "made-up", "fingerprint": "abc", "rows": {"train": 100, "dev": 50, "test": ROWS}},
        "metrics": {"dev": None, "test": {"accuracy": float(right.mean()), "nll": 0.3}},
        "epochs": [
            {"epoch": epoch, "steps": 10, "seconds": seconds / 4, "score_s": 0.0, "dev": {"accuracy": 0.5 + epoch / 10}}
            for epoch in range(4)
        ],
        "cost": {
            "load_s": 4.0, "train_s": seconds, "score_s": 0.0, "select_s": 0.0, "eval_s": 4.0, "save_s": 2.0,
            "finetune_s": seconds, "total_s": seconds + 10, "tokens_backward": int(1000 * kept),
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


# the process of a pretended run: it imports next to nothing, for there are hundreds of them
FAIL = "import sys; sys.stderr.write('some noise\\nerror: no such model \\'x\\'\\n'); sys.exit(2)"
MOVE = "import os, sys; os.rename(*sys.argv[1:])"


def pretend_runs(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Cells of a comparison leave a result at once, whatever their options; those of methods in the set fail.

    What a cell leaves is written here, beside its folder, and its process moves it there.
    """
    from datadiet.compare import run

    failing: set[str] = set()
    real = run._Runner._command

    def command(self: Any, cell: Any, rows: int | None) -> list[str]:
        made = real(self, cell, rows)
        if cell.method in failing:
            return [sys.executable, "-I", "-S", "-c", FAIL]
        folder = Path(read_config(Path(made[-1])).output)
        written = folder.with_name(f"{folder.name}.written")
        pretend(made[-1], written)
        return [sys.executable, "-I", "-S", "-c", MOVE, str(written), str(folder)]

    monkeypatch.setattr(run._Runner, "_command", command)
    monkeypatch.setattr("datadiet.jobs.validate.check_config", lambda config, **_: None)
    monkeypatch.setattr("datadiet.data.load.load_configured", lambda config: None)
    monkeypatch.setattr("datadiet.jobs.validate.check_with_data", lambda *_: None)
    return failing
