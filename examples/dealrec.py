"""DEALRec, end to end: 4 % of the interactions of a recommender, chosen by influence and effort, tune a language model.

    python examples/dealrec.py

Needs `pip install 'datadiet[peft]'`. The interactions are generated: users with one taste, histories as text, the next
item as the answer; a fifth of the answers are accidental. Influence comes from a small surrogate without text, effort
from the language model, rows from strata of both (`ccs`, as published). Every cost is counted; the language model,
which has read other users already, is given to all. Few rows train for more epochs than all rows, as in the paper. On
so few rows choosing costs more than it saves, and all rows are better: the paper keeps 1,024 for 7 billion weights.
"""

import time
from collections import defaultdict

import numpy as np
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

import datadiet as dd
from datadiet.scoring import effort, influence
from datadiet.tasks.loading import with_lora

ITEMS, TASTES, HISTORY = 120, 8, 6
ROWS, TEST_ROWS, SHARE, NOISE, K = 1500, 400, 0.04, 0.2, 10
SYLLABLES = [first + second for first in "bdfgklmnprstvz" for second in "aeiou"]
TITLES = [SYLLABLES[item % 70] + SYLLABLES[item // 7 % 70] + "n" for item in range(ITEMS)]
WORDS = ["<pad>", "<eos>", "enjoyed:", "next:", *TITLES]
NUMBER = {word: number for number, word in enumerate(WORDS)}


def interactions(rows: int, seed: int, noise: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Histories `(rows, HISTORY)`, next items, about two on within the taste of the user, and which are accidental."""
    rng = np.random.default_rng(seed)
    size = ITEMS // TASTES
    taste = rng.integers(TASTES, size=rows)
    place = np.minimum(rng.geometric(0.15, rows), size) - 1
    walk = [place]
    for _ in range(HISTORY):
        walk.append((walk[-1] + rng.choice([1, 2, 3], p=[0.2, 0.6, 0.2], size=rows)) % size)
    items = taste[:, None] * size + np.stack(walk, 1)
    accidental = rng.random(rows) < noise
    items[accidental, -1] = rng.integers(ITEMS, size=int(accidental.sum()))
    return items[:, :-1], items[:, -1], accidental


def as_text(history: np.ndarray, item: int) -> tuple[str, str]:
    return f"enjoyed: {' '.join(TITLES[one] for one in history)} next:", f"{TITLES[item]} <eos>"


def tokenised(histories: np.ndarray, items: np.ndarray) -> list[dict]:
    """Prompt and answer as tokens, one a word; only the answer trains."""
    rows = []
    for prompt, answer in map(as_text, histories, items):
        before, after = ([NUMBER[word] for word in text.split()] for text in (prompt, answer))
        labels = [-100] * len(before) + after
        rows.append({"input_ids": before + after, "attention_mask": [1] * len(labels), "labels": labels})
    return rows


def stacked(rows: list[dict]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(np.array([row[name] for row in rows])) for name in rows[0]}


class Surrogate(nn.Module):
    """Self-attention from the last item over a history of item numbers, without text."""

    def __init__(self, size: int = 32) -> None:
        super().__init__()
        self.items, self.places = nn.Embedding(ITEMS, size), nn.Embedding(HISTORY, size)
        self.keys, self.output = nn.Linear(size, size), nn.Linear(size, ITEMS)

    def forward(self, history: torch.Tensor) -> torch.Tensor:
        read = self.items(history) + self.places.weight
        weights = (self.keys(read) @ read[:, -1:].transpose(1, 2)).softmax(1)  # (batch, positions, 1)
        return self.output(torch.tanh(read[:, -1] + (weights * read).sum(1)))


def train(model: nn.Module, loss_of, rows: list[dict], epochs: int, rate: float, seed: int, batch: int = 32) -> None:
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer, rng = torch.optim.AdamW(weights, lr=rate), np.random.default_rng(seed)
    model.train()
    for _ in range(epochs):
        order = rng.permutation(len(rows))
        for start in range(0, len(rows), batch):
            loss_of(model, stacked([rows[row] for row in order[start : start + batch]])).backward()
            optimizer.step()
            optimizer.zero_grad()
    model.eval()


def of_text(model: nn.Module, batch: dict) -> torch.Tensor:
    return model(**batch).loss


def of_items(model: nn.Module, batch: dict) -> torch.Tensor:
    return nn.functional.cross_entropy(model(batch["history"]), batch["labels"])


def language_model() -> nn.Module:
    """A Llama with one token per word that has read 1,000 other users, with an adapter to tune."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(WORDS), pad_token_id=0, eos_token_id=1, **sizes))
    train(model, of_text, tokenised(*interactions(1000, 99, noise=0.5)[:2]), 4, 2e-3, seed=0)
    return with_lora(model, 8).eval()


@torch.no_grad()
def recall(model: nn.Module, histories: np.ndarray, items: np.ndarray) -> float:
    """The share of the next items that are among the K likeliest."""
    prompts = stacked([{"input_ids": row["input_ids"][:-2]} for row in tokenised(histories, items)])
    likely = model(**prompts).logits[:, -1, -ITEMS:].topk(K).indices  # (rows, K)
    return float((likely == torch.tensor(items)[:, None]).any(1).float().mean())


def main() -> None:
    torch.set_num_threads(1)
    histories, items, accidental = interactions(ROWS, 0, NOISE)
    test = interactions(TEST_ROWS, 1, noise=0.0)[:2]
    texts, model = tokenised(histories, items), language_model()
    start = {name: weight.clone() for name, weight in model.state_dict().items()}
    count, seconds = round(SHARE * ROWS), defaultdict(float)

    def timed(name: str, call):
        began = time.perf_counter()
        result = call()
        seconds[name] += time.perf_counter() - began
        return result

    # 1. influence of each interaction on the mean loss of a surrogate, over its output layer
    torch.manual_seed(0)
    surrogate = Surrogate()
    numbers = [{"history": row, "labels": item} for row, item in zip(histories, items, strict=True)]
    timed("surrogate", lambda: train(surrogate, of_items, numbers, 6, 3e-3, seed=0))
    output = {"parameters": lambda name: name.startswith("output"), "inputs": lambda batch: (batch["history"],)}
    found = timed("influence", lambda: influence(surrogate, numbers, stacked, batch_size=256, **output))
    print(f"influence: {found.parameters:,} numbers, {found.solver}, relative residual {found.residual:.1e}")

    # 2. effort: how far each interaction would move the adapter; 3. both as ranks, and rows from all strata of the sum
    efforts = timed("effort", lambda: effort(model, texts, stacked))
    values = dd.scores.dealrec(found.values, efforts, weight=0.5)
    strata = {"beta": 0.0, "strata": 50, "edges": "range"}
    choices = {
        f"DEALRec, {count} rows": lambda seed: dd.selectors.ccs(values, count, seed=seed, epoch=0, **strata).rows,
        f"random, {count} rows": lambda seed: dd.selectors.random(values, count, seed=seed, epoch=0).rows,
        "all rows": lambda seed: np.arange(ROWS),
    }
    selecting = sum(seconds.values())

    print(f"{'rows':20} recall@{K} (3 seeds)     accidental  choosing  tuning   in all")
    print(f"{'none: as it was':20} {recall(model, *test):9.3f}")
    for name, choose in choices.items():
        reached, tuning, wrong = [], [], []
        for seed in range(3):
            model.load_state_dict(start)
            chosen = choose(seed)
            rows = [texts[row] for row in chosen]
            wrong.append(accidental[chosen].mean())
            began = time.perf_counter()
            train(model, of_text, rows, 2 if len(rows) == ROWS else 16, 3e-3, seed)
            tuning.append(time.perf_counter() - began)
            reached.append(recall(model, *test))
        cost = selecting if "DEALRec" in name else 0.0
        spread = f"{np.mean(reached):9.3f} +- {np.std(reached, ddof=1):.3f}"
        times = f"{cost:9.1f} s {np.mean(tuning):5.1f} s {cost + np.mean(tuning):6.1f} s"
        print(f"{name:20} {spread:20} {np.mean(wrong):12.1%} {times}")
    print("choosing:", ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items()))


if __name__ == "__main__":
    main()
