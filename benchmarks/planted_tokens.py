"""Planted families: which rows Q-Tuning keeps and which tokens go, on a byte-level model that trains for a minute.

    python -m benchmarks.planted_tokens                        # three seeds; figures to results/planted_tokens.json
    python -m benchmarks.planted_tokens --steps 40 --seeds 1 --output build/planted.json     # a look
    python -m benchmarks.planted_tokens --first 3 --output build/planted.json                # seeds 3, 4 and 5

A prompt is the sign of a rule and six random letters, and each rule has an answer of twelve letters. The families, 64
rows each:

    known          a rule and its answer, as in most batches of the warm-up
    noise          prompts and answers of random bytes
    misconception  a rule that was learned, with every letter of the answer replaced by the next: sure, and wrong
    calibration    a rule whose letters are each one of two, at random, as in the warm-up: unsure, and right
    duplicates     one known row, 64 times
    rare           a rule that the warm-up shows in one row of a hundred
    spoilt         misconceptions with four random bytes in a row inside, which should be the tokens that go

The model, of about 0.13 M parameters, warms up on known, ambiguous and rare rules; then one pass scores all families.
Two variants of `quadrants` stand beside the methods: `rank thresholds`, the rows that lie deepest inside Q2 and Q4 when
both axes are cut at the middle rank, and `mean of two rounds`, by values of before and after an epoch on all families.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.common import environment, keep_figures, parser_of
from benchmarks.instruction_tuning import BYTE, collate, model_of

FAMILIES = ("known", "noise", "misconception", "calibration", "duplicates", "rare", "spoilt")
EACH, SIZE, LETTERS, SPOILT = 64, 12, 26, 4
# rules 0 to 7 are usual, 8 and 9 ambiguous, 10 is rare
STEPS, BATCH, RATE = 600, 32, 3e-3
_RULES = 31
WANTED = ("misconception", "calibration", "spoilt")
Generator = np.random.Generator


def prompt(rule: int, generator: Generator) -> list[int]:
    """The sign of the rule and six letters."""
    return [BYTE + rule, *(BYTE + 97 + generator.integers(0, LETTERS, 6))]


def answer(rule: int, generator: Generator) -> list[int]:
    """Twelve letters of the rule; of an ambiguous one each from either of two answers."""
    drawn = np.random.default_rng([_RULES, rule]).integers(0, LETTERS - 1, (2, SIZE))
    pick = generator.integers(0, 2, SIZE) if rule in (8, 9) else np.zeros(SIZE, int)
    return [int(BYTE + 97 + one) for one in drawn[pick, np.arange(SIZE)]]


def row(question: list[int], reply: list[int]) -> dict[str, list[int]]:
    return {"input_ids": [*map(int, question), *map(int, reply)], "labels": [-100] * len(question) + [*map(int, reply)]}


def usual(generator: Generator) -> dict[str, list[int]]:
    """A row of the warm-up."""
    kind = generator.random()
    rule = int(generator.integers(8)) if kind < 0.7 else int(generator.integers(8, 10)) if kind < 0.99 else 10
    return row(prompt(rule, generator), answer(rule, generator))


def family(name: str, generator: Generator) -> dict[str, list[int]]:
    """A row of a family."""
    rule = {"calibration": 8, "rare": 10}.get(name, int(generator.integers(8)))
    question, reply = prompt(rule, generator), answer(rule, generator)
    if name == "noise":
        return row(*([BYTE + one for one in generator.integers(0, 256, size)] for size in (len(question), SIZE)))
    if name in ("misconception", "spoilt"):
        reply = [one + 1 for one in reply]
    if name == "spoilt":
        start = int(generator.integers(0, SIZE - SPOILT + 1))
        reply[start : start + SPOILT] = [BYTE + one for one in generator.integers(0, 97, SPOILT)]
    return row(question, reply)


def planted(generator: Generator) -> tuple[list[dict[str, list[int]]], np.ndarray]:
    """The rows of all families, and the family of each."""
    rows = []
    for name in FAMILIES:
        made = [family(name, generator) for _ in range(EACH)]
        rows += [made[0]] * EACH if name == "duplicates" else made
    return rows, np.repeat(FAMILIES, EACH)


def warmed_up(seed: int, steps: int) -> Any:
    """A model that knows the usual rules."""
    import torch

    model, generator = model_of("llama-0.1m", seed), np.random.default_rng([seed, 1])
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    for _ in range(steps):
        batch = collate([usual(generator) for _ in range(BATCH)])
        model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return model.eval()


def depths(nll: np.ndarray, entropy: np.ndarray) -> np.ndarray:
    """How far inside Q2 or Q4 a row lies, by its shares of rank; below 0 in Q1 and Q3."""
    from datadiet.selectors.q_tuning import shares_of_rank

    u, v = shares_of_rank(nll) - 0.5, shares_of_rank(entropy) - 0.5
    return np.maximum(np.minimum(u, -v), np.minimum(-u, v))


def scored(model: Any, batch: dict[str, Any]) -> tuple[Any, np.ndarray, np.ndarray]:
    """The signals of tokens, and loss and entropy of each row."""
    import torch

    from datadiet.scores.tokens import row_entropy, row_nll, token_signals

    with torch.inference_mode():
        head = token_signals(model.eval()(**batch).logits, batch["labels"])
    return head, row_nll(head).numpy(), row_entropy(head).numpy()


def another_round(model: Any, rows: list[dict[str, list[int]]], generator: Generator) -> None:
    """One epoch on all rows."""
    import torch

    optimizer = torch.optim.AdamW(model.train().parameters(), lr=RATE / 3)
    for part in np.split(generator.permutation(len(rows)), len(rows) // BATCH):
        model(**collate([rows[place] for place in part])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def shares(kept: np.ndarray, families: np.ndarray) -> dict[str, float]:
    return {name: round(float(kept[families == name].mean()), 4) for name in FAMILIES}


def measure(seed: int, steps: int) -> dict[str, Any]:
    """One seed: means of each family, the share of it that every method keeps, and the tokens that go."""
    from datadiet.selectors.base import top_mask
    from datadiet.selectors.in_batch import BatchSelector, BatchSignals, MidRank
    from datadiet.selectors.q_tuning import QTuning, quadrant_rows, quadrants
    from datadiet.selectors.ranked import hardest
    from datadiet.selectors.token_rules import RowTokens, SmoothedTokens

    began = time.perf_counter()
    model, generator = warmed_up(seed, steps), np.random.default_rng([seed, 2])
    rows, families = planted(generator)
    batch = collate(rows)
    head, nll, entropy = scored(model, batch)
    count, share = len(rows) * len(WANTED) // len(FAMILIES), len(WANTED) / len(FAMILIES)
    kept: dict[str, np.ndarray] = {}
    for name, select in {
        "quadrants": lambda: quadrants(nll, count, seed=seed, epoch=0, entropy=entropy).rows,
        "hardest": lambda: hardest(nll, count, seed=seed, epoch=0).rows,
        "hardest-offset": lambda: hardest(nll, count, seed=seed, epoch=0, offset=1 / len(FAMILIES)).rows,
    }.items():
        kept[name] = np.isin(np.arange(len(rows)), select())
    kept["paper, all rows at once"] = quadrant_rows(np.exp(nll), entropy, share).mask
    kept["rank thresholds"] = top_mask(depths(nll, entropy), count, seed=seed, epoch=0)
    order = generator.permutation(len(rows))
    methods: dict[str, Callable[[], BatchSelector]] = {
        "q_tuning": lambda: QTuning(keep=share),
        "q_tuning(window=0)": lambda: QTuning(keep=share, window=0),
        "q_tuning(mode=paper)": lambda: QTuning(keep=share, mode="paper"),
        "mid_rank(portion=0)": lambda: MidRank(keep=share, portion=0),
    }
    for name, make in methods.items():
        method, mask = make(), np.zeros(len(rows), bool)
        for step, part in enumerate(np.split(order, len(rows) // 32)):
            signals = BatchSignals(nll[part], entropy=entropy[part])
            mask[part] = method.choose(signals, seed=seed, step=step)
            method.learn(signals)
        kept[name] = mask
    another_round(model, rows, generator)
    _, later, unsure = scored(model, batch)
    chosen = quadrants((nll + later) / 2, count, seed=seed, epoch=0, entropy=(entropy + unsure) / 2).rows
    kept["mean of two rounds"] = np.isin(np.arange(len(rows)), chosen)
    tokens = RowTokens(np.full(len(rows), SIZE), head.nll[head.mask].numpy(), entropy=entropy)
    found = {
        "seed": seed, "parameters": sum(part.numel() for part in model.parameters()),
        "nll": {name: round(float(nll[families == name].mean()), 4) for name in FAMILIES},
        "entropy": {name: round(float(entropy[families == name].mean()), 4) for name in FAMILIES},
        "correlation": round(float(np.corrcoef(nll, entropy)[0, 1]), 3),
        "kept": {name: shares(mask, families) for name, mask in kept.items()},
    }  # fmt: skip
    spoilt = np.array([[one < BYTE + 97 for one in line["labels"][-SIZE:]] for line in rows])[families == "spoilt"]
    for name, rule in {
        "q_tuning": SmoothedTokens(keep=1 - SPOILT / SIZE),
        "q_tuning(lam=0)": SmoothedTokens(keep=1 - SPOILT / SIZE, lam=0.0),
        "q_tuning(space=ppl)": SmoothedTokens(keep=1 - SPOILT / SIZE, space="ppl"),
        "q_tuning(reverse=true)": SmoothedTokens(keep=1 - SPOILT / SIZE, reverse=True),
    }.items():
        gone = ~rule.kept(tokens, seed=seed, epoch=0).reshape(len(rows), SIZE)
        found.setdefault("spoilt tokens that go", {})[name] = round(float(gone[families == "spoilt"][spoilt].mean()), 4)
        found.setdefault("tokens that go", {})[name] = shares(gone, families)
    return {**found, "seconds": round(time.perf_counter() - began, 1)}


def each_seed(doc: str | None, name: str, measure: Callable[[int, int], dict[str, Any]], steps: int) -> None:
    """The command: measure seed after seed, and keep the figures of each.

    Args:
        doc: Of the script.
        name: Of the results file.
        measure: Seed and steps to figures.
        steps: Of the warm-up, by default.
    """
    parser = parser_of(doc, name)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="the first of the seeds")
    args = parser.parse_args()
    for seed in range(args.first, args.first + args.seeds):
        figures = measure(seed, args.steps)
        print(json.dumps(figures, indent=1))
        keep_figures(args.output, f"seed{seed}", {**figures, "steps": args.steps})
    keep_figures(args.output, "environment", environment())


if __name__ == "__main__":
    each_seed(__doc__, "planted_tokens", measure, STEPS)
