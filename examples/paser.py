"""Recover a damaged language model on a fifth of the data: the rows by which the original and the damaged one differ.

    python examples/paser.py

From the command line, with a model that was pruned, quantised or distilled and the one that it came from:

    datadiet score DATA --task causal-lm --model DAMAGED --teacher ORIGINAL --scores capability_gap \\
        --output gaps.parquet
    datadiet select gaps.parquet --data DATA --score capability_gap --select "paser(clusters=4)" --keep 0.2 \\
        --output kept
    datadiet finetune kept --task causal-lm --model DAMAGED --keep 1 --output RUN

A byte-level model learns four skills. Then one of its MLPs loses most weights for good (`torch.nn.utils.prune`).
The gaps follow what was lost, and `paser` gives almost all places to the skill that suffered most. On this tiny model
that skill recovers as far as with random rows, and the others fall behind, since they are hardly trained: `floor` and
`temperature` leave them places. This is one seed, and no measurement.
"""

import copy

import numpy as np
import torch
from torch.nn.utils import prune
from transformers import LlamaConfig, LlamaForCausalLM

from datadiet.scores.answers import token_divergence
from datadiet.selectors import paser, random

SKILLS = {"copy": "c", "reverse": "r", "add": "+", "sort": "s"}
LETTERS, SIZE, PROMPT = "abcdef", 4, 6  # the sign of a skill, four letters, "="
EACH, KEEP, PRUNED = 300, 0.2, 0.95
STEPS, RATE, RECOVERY, RECOVERY_RATE = 350, 5e-3, 60, 2e-3
SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}


def rows_of(count: int, seed: int) -> tuple[torch.Tensor, np.ndarray]:
    """So many rows of each skill, `cabcd=abcd` or `rabcd=dcba` as bytes, and the skill of each."""
    generator, texts = np.random.default_rng(seed), []
    for name, sign in SKILLS.items():
        for _ in range(count):
            if name == "add":
                one, other = generator.integers(0, 10, 2).tolist()
                texts.append(f"{sign}{one:02}{other:02}={one + other:04}")
                continue
            word = "".join(generator.choice(list(LETTERS), SIZE))
            answer = {"copy": word, "reverse": word[::-1], "sort": "".join(sorted(word))}[name]
            texts.append(f"{sign}{word}={answer}")
    return torch.tensor([list(text.encode()) for text in texts]), np.repeat(list(SKILLS), count)


def labels_of(rows: torch.Tensor) -> torch.Tensor:
    """The answers alone train."""
    return rows.masked_fill(torch.arange(rows.shape[1]) < PROMPT, -100)


def train(model: LlamaForCausalLM, rows: torch.Tensor, steps: int, rate: float, seed: int = 0) -> None:
    """AdamW on batches of 64 rows, the rate falling to 0."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    model.train()
    for _ in range(steps):
        batch = rows[torch.randint(len(rows), (64,), generator=generator)]
        model(input_ids=batch, labels=labels_of(batch)).loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.eval()


@torch.inference_mode()
def accuracy(model: LlamaForCausalLM, rows: torch.Tensor, skills: np.ndarray) -> dict[str, float]:
    """The share of answers that greedy decoding gives, by skill: each token must be the likeliest after the others."""
    right = (model(input_ids=rows).logits[:, PROMPT - 1 : -1].argmax(-1) == rows[:, PROMPT:]).all(1).numpy()
    return {name: float(right[skills == name].mean()) for name in SKILLS}


def damage(model: LlamaForCausalLM) -> None:
    """Take the smallest weights of the first MLP away, for good: the masks hold in later training."""
    mlp = model.model.layers[0].mlp
    for layer in (mlp.gate_proj, mlp.up_proj, mlp.down_proj):
        prune.l1_unstructured(layer, "weight", PRUNED)


def features_of(rows: torch.Tensor) -> np.ndarray:
    """Which bytes each prompt holds, its first one as a vector of its own."""
    bytes_of = torch.nn.functional.one_hot(rows[:, :PROMPT], 128).float()
    return torch.cat([3 * bytes_of[:, 0], bytes_of[:, 1:].mean(1)], 1).numpy()


@torch.inference_mode()
def gaps_of(damaged: LlamaForCausalLM, original: LlamaForCausalLM, rows: torch.Tensor) -> np.ndarray:
    """The mean divergence of the two over the tokens of each answer: what the score `capability_gap` computes."""
    outputs = (model(input_ids=rows).logits for model in (damaged, original))
    return (token_divergence(*outputs, labels_of(rows)).sum(1) / (rows.shape[1] - PROMPT)).numpy()


def line(name: str, values: dict[str, float], form: str = ".0%") -> str:
    cells = "  ".join(f"{value:>7{form}}" for value in values.values())
    return f"{name:26} {cells}  worst {min(values.values()):.0%}" if form.endswith("%") else f"{name:26} {cells}"


def main() -> None:
    torch.manual_seed(0)
    original = LlamaForCausalLM(LlamaConfig(vocab_size=128, **SIZES))
    train(original, rows_of(2000, seed=0)[0], STEPS, RATE)
    damaged = copy.deepcopy(original)
    damage(damaged)
    (pool, skills), (test, tested) = rows_of(EACH, seed=1), rows_of(150, seed=2)
    gaps, count = gaps_of(damaged, original, pool), round(KEEP * 4 * EACH)
    options = {"seed": 0, "epoch": 0, "features": features_of(pool), "clusters": 4}
    chosen = {
        "paser": paser(gaps, count, **options).rows,
        "paser, even": paser(gaps, count, temperature=4.0, floor=20, **options).rows,
        "random": random(gaps, count, seed=0, epoch=0).rows,
        "everything": np.arange(len(pool)),
    }
    print(f"{'':26} " + "  ".join(f"{name:>7}" for name in SKILLS))
    print(line("accuracy of the original", accuracy(original, test, tested)))
    print(line("accuracy of the damaged", accuracy(damaged, test, tested)))
    print(line("mean gap", {name: float(gaps[skills == name].mean()) for name in SKILLS}, ".3f"))
    for name, rows in chosen.items():
        print(line(f"rows by {name}", {skill: int((skills[rows] == skill).sum()) for skill in SKILLS}, "d"))
    for name, rows in chosen.items():
        model = copy.deepcopy(damaged)
        train(model, pool[rows], RECOVERY, RECOVERY_RATE)
        print(line(f"recovered by {name}", accuracy(model, test, tested)))


if __name__ == "__main__":
    main()
