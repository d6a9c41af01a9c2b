"""Tiny random models, tokenizers and learnable toy data for every test: made in code, nothing downloaded.

tok = tiny_tokenizer()                               a fast WordPiece tokenizer
model = tiny_classifier(num_labels=3)                a 2-layer BERT classifier, dropout 0 unless asked
folder = tiny_model_folder(tmp_path)                 a folder that AutoModel and AutoTokenizer load (`--model FOLDER`)
train = toy_classification(64, classes=3, seed=0)    Examples whose label follows from one keyword
data = write_toy_folder(tmp_path, "intent-slot")     train/dev/test.jsonl

With 128 rows, batch 16 and learning rate 1e-2 a tiny model learns any of them in about 8 epochs.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

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
