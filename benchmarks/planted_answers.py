"""Planted families: what each score of whole answers says of noise, duplicates, wrong answers and a rare skill.

    python -m benchmarks.planted_answers                        # three seeds; figures to results/planted_answers.json
    python -m benchmarks.planted_answers --steps 40 --seeds 1 --output build/planted.json     # a look

The families and the warm-up are those of `planted_tokens`. Three models are warmed up for a quarter, a half and all of
the steps, and are the ladder of `predictive_strength`. The last one is the model of `perplexity` and `ifd`, and the
teacher of `capability_gap`; a copy of it without most weights of its first MLP is the damaged model.
"""

from __future__ import annotations

import copy
import time
from typing import Any

import numpy as np

from benchmarks.byte_lm import byte_tokenizer
from benchmarks.instruction_tuning import collate
from benchmarks.planted_tokens import EACH, FAMILIES, each_seed, planted, shares, warmed_up

SCORES = ("perplexity", "ifd", "predictive_strength", "capability_gap")
# how the papers choose by each
SELECT = {"perplexity": "window", "ifd": "hardest", "predictive_strength": "hardest", "capability_gap": "paser"}
STEPS, KEEP, PRUNED = 400, 2 / len(FAMILIES), 0.9


def damaged(model: Any) -> Any:
    """A copy without the smallest weights of its first MLP."""
    from torch.nn.utils import prune

    made = copy.deepcopy(model)
    mlp = made.model.layers[0].mlp
    for layer in (mlp.gate_proj, mlp.up_proj, mlp.down_proj):
        prune.l1_unstructured(layer, "weight", PRUNED)
    return made


def measure(seed: int, steps: int) -> dict[str, Any]:
    """One seed: the median of each score in each family, and the share of the family that is kept by it."""
    import datasets

    from datadiet import registry
    from datadiet.scoring.dataset import score_split
    from datadiet.scoring.inputs import ScoringInputs
    from datadiet.tasks.causal_lm import AnswerRows, CausalLMTask

    began = time.perf_counter()
    ladder = [warmed_up(seed, part) for part in (steps // 4, steps // 2, steps)]
    rows, families = planted(np.random.default_rng([seed, 2]))
    counts = [sum(label != -100 for label in row["labels"]) for row in rows]
    lengths = [len(row["labels"]) for row in rows]
    lines = [
        {**row, "attention_mask": [1] * length, "trained": count, "cut": 0, "length": length}
        for row, count, length in zip(rows, counts, lengths, strict=True)
    ]
    features = datasets.Dataset.from_list(lines)
    inputs = ScoringInputs(
        [str(row["input_ids"]) for row in rows], features, collate, CausalLMTask().signals, combine="mean",
        model=ladder[-1], checkpoints=ladder, answers=AnswerRows(features, byte_tokenizer()),
    )  # fmt: skip
    values = dict(score_split(SCORES[:3], inputs).values)
    gap = ScoringInputs(**{**vars(inputs), "model": damaged(ladder[-1]), "teacher": ladder[-1]})
    values |= score_split(SCORES[3:], gap).values
    prompts = np.eye(512, dtype=np.float32)[[row["input_ids"][0] for row in rows]]  # the sign of the rule
    count, kept = round(KEEP * len(rows)), {}
    for name, select in SELECT.items():
        more = {"features": prompts, "clusters": len(FAMILIES)} if select == "paser" else {}
        more |= {"offset": (1 - KEEP) / 2} if select == "window" else {}
        chosen = registry.load("select", select)(values[name], count, seed=seed, epoch=0, **more).rows
        kept[f"{name}, {select}"] = shares(np.isin(np.arange(len(rows)), chosen), families)
    medians = {
        name: {family: round(float(np.median(column[families == family])), 4) for family in FAMILIES}
        for name, column in values.items()
    }
    return {"seed": seed, "each": EACH, "median": medians, "kept": kept, "seconds": round(time.perf_counter() - began)}


if __name__ == "__main__":
    each_seed(__doc__, "planted_answers", measure, STEPS)
