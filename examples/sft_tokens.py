"""Instruction tuning on a part of the rows and of the tokens: Q-Tuning, and token pruning against a reference model.

    python examples/sft_tokens.py

With TRL it is one class more: `class MySFT(dd.DietMixin, SFTTrainer)`, and the same `diet=`. From the command line:

    datadiet finetune DATA --task causal-lm --select quadrants --tokens "q_tuning(keep=0.7)" --keep 0.5 --output RUN

A tiny byte-level model starts from random weights, on made-up sums of which every sixth answer is spoilt by noise; in
practice the model is a pretrained one. Masking tokens takes them out of the loss and saves nothing of the passes;
`action=drop` makes rows shorter, and the model then reads text with gaps.
"""

import tempfile

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments

import datadiet as dd

ROWS, BATCH, SPOILT = 144, 8, 6
SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}


def rows_of(count: int, seed: int, *, spoilt: bool) -> list[dict[str, list[int]]]:
    """`3 plus 4?` and `3 and 4 make 7.` as bytes; labels are -100 where nothing trains."""
    generator = np.random.default_rng(seed)
    rows = []
    for row in range(count):
        one, other = generator.integers(1, 10, 2).tolist()
        prompt, answer = list(f"{one} plus {other}? ".encode()), list(f"{one} and {other} make {one + other}.".encode())
        if spoilt and row % SPOILT == 0:
            answer[4:9] = generator.integers(128, 256, 5).tolist()
        rows.append({"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer})
    return rows


def collate(items: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """A padded batch."""
    longest = max(len(item["input_ids"]) for item in items)

    def padded(name: str, value: int) -> torch.Tensor:
        return torch.tensor([item[name] + [value] * (longest - len(item[name])) for item in items])

    ids = padded("input_ids", 0)
    return {"input_ids": ids, "labels": padded("labels", -100), "attention_mask": (ids != 0).long()}


def fresh_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=256, **SIZES))


def train(diet: dd.Diet, rows: list[dict[str, list[int]]], **more: object) -> dd.DietTrainer:
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, num_train_epochs=4, per_device_train_batch_size=BATCH, learning_rate=3e-3, report_to="none",
            logging_strategy="no", save_strategy="no", disable_tqdm=True, use_cpu=True, seed=1,
        )  # fmt: skip
        trainer = dd.DietTrainer(
            model=fresh_model(), args=arguments, train_dataset=rows, data_collator=collate,
            eval_dataset=rows_of(48, seed=9, spoilt=False), diet=diet, **more,
        )  # fmt: skip
        trainer.train()
        return trainer


def main() -> None:
    rows = rows_of(ROWS, seed=0, spoilt=True)
    reference = train(dd.Diet(keep=1.0), rows_of(ROWS, seed=5, spoilt=False)).model.eval()
    diets = {
        "everything": (dd.Diet(keep=1.0), {}),
        "half of the rows": (dd.Diet(keep=0.5, select="random", refresh_every=1), {}),
        "Q-Tuning": (
            dd.Diet(keep=0.5, score="cross_entropy", select="quadrants", refresh_every=1, tokens="q_tuning(keep=0.7)"),
            {},
        ),
        "fewer tokens": (dd.Diet(keep=1.0, tokens="q_tuning(keep=0.7, calibration=false)"), {}),
        "excess loss": (dd.Diet(keep=1.0, tokens="excess(keep=0.7)"), {"reference": reference}),
    }
    for name, (diet, more) in diets.items():
        trainer = train(diet, rows, **more)
        loss, cost = trainer.evaluate()["eval_loss"], trainer.ledger.snapshot()
        share = trainer.tokens.summary()["share"] if trainer.tokens else 1.0
        print(
            f"{name:17} dev loss {loss:.3f}, {cost.tokens_backward:6,} tokens backward, {share:4.0%} of answers train"
        )


if __name__ == "__main__":
    main()
