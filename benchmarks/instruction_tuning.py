"""Instruction tuning: which rows and tokens to train on, at equal optimizer steps and at equal tokens.

    python -m benchmarks.instruction_tuning --data-root DATA                 # the grid; a cell with a result is skipped
    python -m benchmarks.instruction_tuning --data-root DATA --arms short,random,quadrants --keeps 0.25 --seeds 3
    python -m benchmarks.instruction_tuning --data-root DATA --rows 96 --epochs 2 --seeds 1 --shape llama-0.1m \
        --arms short,q_tuning --results build/look                           # a look
    python -m benchmarks.instruction_tuning --table                          # what is there, beside short and random

DATA holds dolly15k (CC BY-SA 3.0) and gsm8k (MIT), one folder each with train.jsonl.gz and test.jsonl.gz of `prompt`
and `response`. Models are byte-level and start from random weights (`benchmarks.byte_lm`); rows of more than `--length`
bytes are left out. Rows and dev rows are the same for every seed and arm, and so are the batches of the first epoch.

One epoch on everything, then cycles of a share `keep`, chosen anew before each. `steps`: every arm makes the optimizer
steps of such a diet; those that choose within batches make them with smaller batches. `tokens`: every arm ends when as
many tokens have had a backward pass as so many steps on rows of mean length take, and its learning rate follows that
share. The dev loss is a mean over tokens; rows are kept one by one, so that intervals are paired. Times include
scoring, races and selection; the reference model of `excess`, trained once on other rows, is charged to each of its
runs.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.byte_lm import config_of
from benchmarks.cells import each_once, keep, listed, numbers
from benchmarks.common import RESULTS
from benchmarks.report.arms import difference, glance, grid
from benchmarks.report.markdown import NOT_YET

ROWS, DEV_ROWS, EPOCHS, BATCH, LENGTH = 2000, 400, 5, 16, 384
FULL, BYTE, PAD, END = 1.0, 5, 0, 1
LEARNING_RATE, WARMUP = 2e-3, 0.06
SETS = ("dolly15k", "gsm8k")
KEEPS = (0.5, 0.25, 0.1)
BUDGETS = ("steps", "tokens")
_SEED = 47
_PLAIN = {"history": "last", "refresh_every": 1, "offset": 0.0}
_NLL = {"score": "cross_entropy", "combine": "mean", **_PLAIN}
_LONG = {"score": "length", **_PLAIN}
# options of the diet; `keep` is that of the cell where it does not stand here
ARMS: dict[str, dict[str, Any]] = {
    "short": {"keep": FULL},
    "full": {"keep": FULL},
    "random": {"select": "random", "refresh_every": 1},
    "cover": {"select": "cover"},
    "longest": {"select": "hardest", **_LONG},
    "stratified": {"select": "stratified", **_LONG, "offset": None},
    "hardest": {"select": "hardest", **_NLL},
    "hardest-offset": {"select": "hardest", **_NLL, "offset": 0.1},
    "auto": {"select": "auto", "score": "cross_entropy", "combine": "mean"},
    "quadrants": {"select": "quadrants", **_NLL, "offset": None},
    "quadrants-tokens": {"select": "quadrants", **_NLL, "offset": None, "tokens": "q_tuning(keep=0.7)"},
    "q_tuning": {"select": "q_tuning(mode=rank)"},
    "q_tuning-paper": {"select": "q_tuning(mode=paper)"},
    "q_tuning-tokens": {"select": "q_tuning(mode=rank)", "tokens": "q_tuning(keep=0.7)"},
    "mid_rank": {"select": "mid_rank(portion=0)"},
    "mid_rank-next": {"select": "mid_rank(portion=1)"},
    "mid_rank-ema": {"select": "mid_rank(portion=0, ema=0.3)"},
    "ir_dro": {"keep": FULL, "select": "ir_dro"},
    "ir_dro-bare": {"keep": FULL, "select": "ir_dro(least=0.0)"},
    "ir_dro-ema": {"keep": FULL, "select": "ir_dro(ema=0.3)"},
    "tokens-random": {"keep": FULL, "tokens": "random_tokens(keep=0.6)"},
    "tokens-low": {"keep": FULL, "tokens": "q_tuning(keep=0.6, calibration=false)"},
    "tokens-high": {"keep": FULL, "tokens": "q_tuning(keep=0.6, calibration=false, reverse=true)"},
    "tokens-drop": {"keep": FULL, "tokens": "q_tuning(keep=0.6, calibration=false, action=drop)"},
    "tokens-excess": {"keep": FULL, "tokens": "excess(keep=0.6)"},
}


@dataclass(frozen=True)
class Cell:
    """One run."""

    data: str
    budget: str
    arm: str
    keep: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.data}-{self.budget}-{self.arm}-{self.keep:g}-seed{self.seed}"


@dataclass(frozen=True)
class Setting:
    """What all cells of a grid share."""

    root: Path
    rows: int
    dev_rows: int
    epochs: int
    length: int
    shape: str


Row = dict[str, list[int]]


@cache
def prepare(name: str, setting: Setting) -> tuple[list[Row], list[Row], list[Row]]:
    """Training rows, dev rows and the rows of the reference model, apart from one another."""
    generator = np.random.default_rng(_SEED)
    train, test = (_rows(setting.root / name / f"{split}.jsonl.gz", setting.length) for split in ("train", "test"))
    order = generator.permutation(len(train))
    drawn = [train[row] for row in order]
    dev = [test[row] for row in generator.permutation(len(test))[: setting.dev_rows]]
    more = setting.dev_rows - len(dev)  # the test split of dolly15k has 80 rows
    if more > 0:
        dev, drawn = [*dev, *drawn[-more:]], drawn[:-more]
    return drawn[: setting.rows], dev, drawn[setting.rows : 2 * setting.rows]


def _rows(path: Path, length: int) -> list[Row]:
    """Prompt, blank line and answer as bytes; the answer and its end train."""
    made = []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in map(json.loads, lines):
            prompt, answer = (line[part].strip().encode() for part in ("prompt", "response"))
            tokens = [BYTE + byte for byte in prompt + b"\n\n"], [*(BYTE + byte for byte in answer), END]
            if answer and sum(map(len, tokens)) <= length:
                made.append({"input_ids": tokens[0] + tokens[1], "labels": [-100] * len(tokens[0]) + tokens[1]})
    return made


def collate(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A padded batch."""
    import torch

    longest = max(len(item["input_ids"]) for item in items)
    fill = {"input_ids": PAD, "labels": -100}
    lines = {
        name: [[*item[name], *[value] * (longest - len(item[name]))] for item in items] for name, value in fill.items()
    }
    mask = [[1] * len(item["input_ids"]) + [0] * (longest - len(item["input_ids"])) for item in items]
    return {**{name: torch.tensor(part) for name, part in lines.items()}, "attention_mask": torch.tensor(mask)}


def model_of(shape: str, seed: int) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config_of(shape))


def steps_of(share: float, rows: int, epochs: int) -> int:
    """The optimizer steps of a diet: one epoch on everything, then a share."""
    from datadiet.diet.diet import Diet

    return Diet(select="random", keep=share, refresh_every=1).forecast(rows, epochs=epochs, batch=BATCH).steps


def train(options: Mapping[str, Any], rows: list[Row], dev: list[Row], cell: Cell, setting: Setting, work: Path) -> Any:
    """The trainer of a cell, after training."""
    import torch
    from torch.optim.lr_scheduler import LambdaLR
    from transformers import TrainerCallback, TrainingArguments

    from datadiet.diet.diet import Diet
    from datadiet.training.trainer import DietTrainer

    share = {"keep": cell.keep, **options}
    steps = (
        setting.epochs * -(-len(rows) // BATCH)
        if cell.arm == "full"
        else steps_of(cell.keep, len(rows), setting.epochs)
    )
    budget = steps * BATCH * float(np.mean([len(row["input_ids"]) for row in rows]))
    by_tokens = cell.budget == "tokens" and cell.arm != "full"

    class Budgeted(DietTrainer):
        own_batches = True

        def progress(self) -> float:
            if not by_tokens:
                return self.state.global_step / steps
            self.current_epoch.settle()
            return self.ledger.snapshot().tokens_backward / budget

        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
            def factor(step: int) -> float:  # of the scheduler: one ahead of the Trainer's
                done = self.progress() if by_tokens else step / steps
                return max(0.0, min((done + 0.5 / steps) / WARMUP, (1 - done) / (1 - WARMUP)))

            self.lr_scheduler = LambdaLR(optimizer or self.optimizer, factor)
            return self.lr_scheduler

    class End(TrainerCallback):
        def on_step_end(self, _args: Any, _state: Any, control: Any, **_more: Any) -> Any:
            control.should_training_stop = control.should_training_stop or trainer.progress() >= 1
            return control

    diet = Diet(seed=cell.seed, warmup_epochs=1, **share)
    whole = not diet.options.plans
    args = TrainingArguments(
        str(work), num_train_epochs=setting.epochs * (3 if by_tokens or (whole and cell.arm != "full") else 1),
        per_device_train_batch_size=BATCH, learning_rate=LEARNING_RATE, weight_decay=0.01, max_grad_norm=1.0,
        seed=cell.seed, train_sampling_strategy="group_by_length", logging_strategy="no", save_strategy="no",
        report_to="none", disable_tqdm=True, dataloader_pin_memory=torch.cuda.is_available(),
    )  # fmt: skip
    values = np.array([len(row["labels"]) - row["labels"].count(-100) for row in rows], np.float32)
    reference = _reference(cell.data, setting)[0] if "excess" in str(options.get("tokens")) else None
    trainer = Budgeted(
        model=model_of(setting.shape, cell.seed), args=args, train_dataset=rows, eval_dataset=dev,
        data_collator=collate, diet=diet, callbacks=[End()], run_folder=work / "run", reference=reference,
        values=values if share.get("score") == "length" else None,
    )  # fmt: skip
    trainer.train()
    return trainer


@cache
def _reference(name: str, setting: Setting) -> tuple[Any, float]:
    """A model trained on other rows for as many epochs, and the seconds that it took."""
    rows, dev, others = prepare(name, setting)
    began = time.perf_counter()
    with TemporaryDirectory(prefix="datadiet-reference-") as work:
        cell = Cell(name, "steps", "full", FULL, _SEED)
        trainer = train({"keep": FULL}, others or rows, dev, cell, setting, Path(work))
    return trainer.model.eval(), time.perf_counter() - began


def judge(model: Any, dev: list[Row]) -> dict[str, Any]:
    """Of each dev row the summed loss of its answer, the tokens of it, and how many are the likeliest."""
    from datadiet.scores.tokens import token_signals
    from datadiet.scoring.forward import forward_pass

    sums, counts, right = np.zeros(len(dev)), np.zeros(len(dev), int), np.zeros(len(dev), int)
    for rows, outputs, batch in forward_pass(model, dev, collate):
        head = token_signals(outputs.logits, batch["labels"])
        sums[rows], counts[rows] = head.nll.sum(1).cpu().numpy(), head.mask.sum(1).cpu().numpy()
        right[rows] = (head.right & head.mask).sum(1).cpu().numpy()
    return {
        "nll": float(sums.sum() / counts.sum()),
        "token_accuracy": float(right.sum() / counts.sum()),
        "rows": {"nll": [round(float(one), 4) for one in sums], "tokens": counts.tolist()},
    }


def run_cell(cell: Cell, setting: Setting, results: Path) -> str:
    """Run one cell in this process, and keep its result."""
    from datadiet.errors import ArgumentError

    rows, dev, _ = prepare(cell.data, setting)
    options = ARMS[cell.arm]
    reference_s = _reference(cell.data, setting)[1] if "excess" in str(options.get("tokens")) else 0.0
    began = time.perf_counter()
    with TemporaryDirectory(prefix="datadiet-bench-") as work:
        try:
            trainer = train(options, rows, dev, cell, setting, Path(work))
        except ArgumentError as error:
            raise RuntimeError(str(error)[:300]) from error
    found = judge(trainer.model, dev)
    cost = asdict(trainer.ledger.snapshot())
    keep(results, cell.name, {
        "cell": asdict(cell), "rows": len(rows), "shape": setting.shape, "epochs": setting.epochs,
        "length": setting.length, "learning_rate": LEARNING_RATE, "options": options, "dev": found, "cost": cost,
        "seconds": time.perf_counter() - began, "reference_s": reference_s, "steps": trainer.state.global_step,
        "tokens": trainer.tokens and trainer.tokens.summary(),
        "race": trainer.diet.race and trainer.diet.race.summary(),
    })  # fmt: skip
    share = f", {trainer.tokens.summary()['share']:.0%} of answer tokens" if trainer.tokens else ""
    return (
        f"nll {found['nll']:.4f}  {trainer.state.global_step} steps, {cost['tokens_backward']:,} tokens backward, "
        f"{cost['tokens_forward']:,} forward{share}, {cost['finetune_s']:.0f} s"
    )


def report(results: Path) -> str:
    """The table of a results folder for the documents."""
    return table(results / "instruction_tuning")


def overview(results: Path) -> str:
    """All cells at a glance, a table for each budget."""
    told = [glance(results / "instruction_tuning", list(ARMS), budget) for budget in BUDGETS]
    return "\n\n".join(one for one in told if one != NOT_YET) or NOT_YET


def table(results: Path) -> str:
    """Mean dev nll by arm, and the difference to `short` and to `random` with 95 % intervals, paired over dev rows."""
    groups = grid(results)
    if not groups:
        return NOT_YET
    lines = []
    for (data, budget, share), arms in sorted(groups.items(), key=lambda entry: (*entry[0][:2], -entry[0][2])):
        one = next(iter(next(iter(arms.values())).values()))
        rows = f"{one['rows']:,} rows of at most {one['length']} bytes, {one['epochs']} epochs, {one['shape']}"
        lines.append(
            f"**{data}**, keep {share:g}, equal {budget}: {rows}, {len(one['dev']['rows']['nll'])} dev rows.\n"
        )
        lines.append(
            "| arm | seeds | dev nll | less than short | less than random | steps | tokens trained | seconds |"
        )
        lines.append("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
        means = {arm: np.mean([one["dev"]["nll"] for one in runs.values()]) for arm, runs in arms.items()}
        for arm in sorted(arms, key=lambda arm: means[arm]):
            runs, nll = arms[arm], means[arm]
            deviation = np.std([one["dev"]["nll"] for one in runs.values()], ddof=1) if len(runs) > 1 else np.nan
            beside = [difference(runs, arms.get(other, {})) if other != arm else "" for other in ("short", "random")]
            steps, seconds, tokens = (
                np.mean([get(one) for one in runs.values()]) for get in (_steps, _seconds, _tokens)
            )
            mean = f"{nll:.3f} ± {deviation:.3f}" if len(runs) > 1 else f"{nll:.3f}"
            figures = [mean, *beside, f"{steps:.0f}", f"{tokens:,.0f}", f"{seconds:.0f}"]
            lines.append(f"| `{arm}` | {len(runs)} | {' | '.join(figures)} |")
        lines.append("")
    return "\n".join(lines).rstrip()


def _steps(one: Mapping[str, Any]) -> int:
    return int(one["steps"])


def _seconds(one: Mapping[str, Any]) -> float:
    return float(one["cost"]["finetune_s"] + one["reference_s"])


def _tokens(one: Mapping[str, Any]) -> int:
    return int(one["cost"]["tokens_backward"])


def grid_parser(doc: str | None, name: str, **defaults: Any) -> argparse.ArgumentParser:
    """The options of a grid of arms under budgets.

    Args:
        doc: Of the script.
        name: Of the results folder.
        **defaults: `sets`, `budgets`, `arms`, `keeps`, `rows`, `dev_rows` and `length`.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    for option in ("sets", "budgets", "arms"):
        names = [*defaults[option]]
        parser.add_argument(f"--{option}", type=listed(*names), default=names)
    parser.add_argument("--keeps", type=numbers(float), default=[*defaults["keeps"]])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    for option in ("rows", "dev_rows", "length"):
        parser.add_argument(f"--{option.replace('_', '-')}", type=int, default=defaults[option])
    parser.add_argument("--shape", default="llama-1m")
    parser.add_argument("--results", type=Path, default=RESULTS / name)
    parser.add_argument("--table", action="store_true", help="print what is there")
    return parser


def main() -> None:
    parser = grid_parser(
        __doc__, "instruction_tuning", sets=SETS, budgets=BUDGETS, arms=ARMS, keeps=KEEPS, rows=ROWS, dev_rows=DEV_ROWS,
        length=LENGTH,
    )  # fmt: skip
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    args = parser.parse_args()
    if args.table:
        print(table(args.results))
        return
    setting = Setting(args.data_root, args.rows, args.dev_rows, args.epochs, args.length, args.shape)
    cells = [
        Cell(data, budget, arm, share, seed)
        for seed in range(args.first_seed, args.seeds)
        for share in args.keeps
        for data in args.sets
        for budget in args.budgets
        for arm in args.arms
        if arm != "full" or (share == args.keeps[0] and budget == "steps")
    ]
    done = each_once(
        cells,
        args.results,
        lambda cell: run_cell(cell, setting, args.results),
    )
    sys.exit(0 if done else 1)


if __name__ == "__main__":
    main()
