"""Choosing from a corpus before training: the static systems beside random, longest, stratified and training less.

    python -m benchmarks.corpus_selection --data-root DATA                   # the grid; a cell with a result is skipped
    python -m benchmarks.corpus_selection --data-root DATA --sets gsm8k --arms random,dsir,less --keeps 0.1 --seeds 1
    python -m benchmarks.corpus_selection --table                            # what is there

DATA holds dolly15k (CC BY-SA 3.0), gsm8k (MIT) and self_instruct_seeds (Apache 2.0), one folder each with
train.jsonl.gz of `prompt` and `response`. A seed draws the corpus, the rows of the base model, the dev rows, and which
half of the seed tasks are queries; the other half are the target rows. All are apart from one another.

The base model is byte-level and is trained on other rows of the same set, for every arm the same, with its checkpoints
kept; its training is charged to none. `datadiet score` scores the corpus by it, all scores in one go; `select_rows`
chooses; the base model then trains on what was chosen, with a plain loop. `steps`: every arm makes as many optimizer
steps as EPOCHS epochs on its share take. `tokens`: every arm ends when as many tokens have been passed as so many steps
on rows of mean length take, and its learning rate follows that share. `short` trains on the whole corpus under the same
budget. `selection_s` is the time of the scores of an arm (whole passes, also where others share them) and of the
choice.
"""

from __future__ import annotations

import gzip
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np

from benchmarks.byte_lm import byte_tokenizer, write_model
from benchmarks.cells import each_once, keep
from benchmarks.instruction_tuning import Cell, collate, grid_parser, judge
from benchmarks.report.arms import difference, glance, grid
from benchmarks.report.markdown import NOT_YET

ROWS, DEV_ROWS, BASE_ROWS, BASE_EPOCHS, EPOCHS, BATCH, LENGTH = 1000, 200, 1500, 4, 4, 16, 256
LEARNING_RATE, BASE_LEARNING_RATE, WARMUP = 1e-3, 2e-3, 0.06
SETS, KEEPS, BUDGETS = ("dolly15k", "gsm8k"), (0.25, 0.1), ("steps", "tokens")
TARGET = "self_instruct_seeds"
_SEED = 47


@dataclass(frozen=True)
class Arm:
    """How one method chooses: a score of `datadiet score`, and a selector that reads it."""

    score: str
    select: str = "hardest"


ARMS: dict[str, Arm | None] = {
    "short": None,
    "random": Arm("length(unit=characters)", "random"),
    "longest": Arm("length(unit=characters)"),
    "stratified": Arm("length(unit=characters)", "stratified"),
    "low-perplexity": Arm("perplexity", "easiest"),
    "medium-perplexity": Arm("perplexity", "window(offset={middle})"),
    "high-perplexity": Arm("perplexity"),
    "ifd": Arm("ifd(most=1)"),
    "dsir": Arm("dsir"),
    "classifier": Arm("classifier"),
    "preselect": Arm("predictive_strength"),
    "el2n": Arm("el2n"),
    "rds": Arm("rds_plus"),
    "deft": Arm("length(unit=characters)", "deft_ucs"),
    "smart": Arm("length(unit=characters)", "smart"),
    "effort": Arm("effort"),
    "influence": Arm("influence(sample=200, iterations=20)"),
    "dealrec": Arm("dealrec", "ccs(strata=50, beta=0, edges=range)"),
    "less": Arm("less(dimensions=512)"),
}


@dataclass(frozen=True)
class Setting:
    """What all cells of a grid share."""

    root: Path
    rows: int
    dev_rows: int
    base_rows: int
    length: int
    shape: str


@dataclass(frozen=True)
class Corpus:
    """What a seed draws of one set, the base model, and the scores."""

    rows: list[dict[str, list[int]]]
    dev: list[dict[str, list[int]]]
    target: list[dict[str, list[int]]]
    base: Path
    texts: list[str]
    groups: list[str]
    scores: Any


def lines_of(root: Path, name: str, length: int) -> list[dict[str, str]]:
    """The rows of a set of at most `length` bytes, answers and prompts not empty."""
    with gzip.open(root / name / "train.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    parts = [{part: row[part].strip() for part in ("prompt", "response")} for row in rows]
    pairs = [{**pair, "label": str(row.get("label") or "")} for pair, row in zip(parts, rows, strict=True)]
    return [pair for pair in pairs if pair["prompt"] and pair["response"] and _size(pair) <= length]


def _size(pair: Mapping[str, str]) -> int:
    return len(pair["prompt"].encode()) + len(pair["response"].encode()) + 3


def tokens_of(pairs: Sequence[Mapping[str, str]]) -> list[dict[str, list[int]]]:
    """Prompt, blank line and answer, as the task reads them without a chat template."""
    tokenizer, made = byte_tokenizer(chat=False), []
    for pair in pairs:
        prompt = tokenizer(pair["prompt"] + "\n\n", add_special_tokens=False)["input_ids"]
        answer = [*tokenizer(pair["response"], add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        made.append({"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer})
    return made


@cache
def corpus_of(data: str, seed: int, setting: Setting) -> Corpus:
    """Draw, train the base model, score: once for all arms of a seed."""
    from datadiet.config import FinetuneConfig
    from datadiet.jobs.finetune import finetune
    from datadiet.jobs.score import score_data

    work = Path(mkdtemp(prefix="datadiet-bench-"))
    generator = np.random.default_rng((_SEED, seed))
    pairs = lines_of(setting.root, data, setting.length)
    drawn = [pairs[row] for row in generator.permutation(len(pairs))]
    ends = np.cumsum([setting.rows, setting.dev_rows, setting.base_rows])
    corpus, dev, other = drawn[: ends[0]], drawn[ends[0] : ends[1]], drawn[ends[1] : ends[2]]
    seeds = lines_of(setting.root, TARGET, setting.length)
    seeds = [seeds[row] for row in generator.permutation(len(seeds))]
    queries, target = seeds[: len(seeds) // 2], seeds[len(seeds) // 2 :]
    for folder, train in (("corpus", corpus), ("other", other), ("queries", queries)):
        (work / folder).mkdir()
        for split, rows in (("train", train), ("dev", dev[:60])):
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (work / folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
    shape = write_model(work / "shape", setting.shape, chat=False)
    finetune(FinetuneConfig(
        data=str(work / "other"), task="causal-lm", model=str(shape), output=str(work / "base"), keep=1.0,
        epochs=BASE_EPOCHS, batch_size=BATCH, learning_rate=BASE_LEARNING_RATE, max_length=setting.length + 8,
        keep_checkpoints=True, seed=seed,
    ))  # fmt: skip
    names = list(dict.fromkeys(arm.score for arm in ARMS.values() if arm is not None))
    needs_queries = any(name.startswith(("dsir", "rds", "less", "classifier")) for name in names)
    scores = score_data(
        work / "corpus", "causal-lm", scores=names, model=work / "base", max_length=setting.length + 8, seed=seed,
        **({"queries": str(work / "queries")} if needs_queries else {}),
    )  # fmt: skip
    texts = [f"{pair['prompt']}\n{pair['response']}" for pair in corpus]
    return Corpus(
        tokens_of(corpus),
        tokens_of(dev),
        tokens_of(target),
        work / "base",
        texts,
        [pair["label"] for pair in corpus],
        scores,
    )


def chosen(cell: Cell, corpus: Corpus) -> tuple[np.ndarray, float]:
    """The rows of a cell, and the seconds that choosing took, scores included."""
    from datadiet.jobs.select_rows import select_rows

    arm = ARMS[cell.arm]
    if arm is None:
        return np.arange(len(corpus.rows)), 0.0
    name = arm.score.partition("(")[0]
    began = time.perf_counter()
    choice = select_rows(
        corpus.scores,
        score=name,
        select=arm.select.format(middle=0.5 - cell.keep / 2),
        keep=cell.keep,
        seed=cell.seed,
        texts=corpus.texts,
        groups=corpus.groups if arm.select == "smart" else None,
    )
    seconds = time.perf_counter() - began
    free = arm.select == "random"
    return choice.rows, seconds + (0.0 if free else float(corpus.scores.made_with[name]["seconds"]))


def batches(rows: Sequence[int], seed: int) -> Iterator[list[int]]:
    """Batches of shuffled epochs without end; no epoch has a smaller last one."""
    generator, left = np.random.default_rng((_SEED, seed)), np.empty(0, np.int64)
    while True:
        while len(left) < BATCH:
            left = np.concatenate([left, generator.permutation(np.asarray(rows))])
        yield left[:BATCH].tolist()
        left = left[BATCH:]


def train(cell: Cell, corpus: Corpus, rows: np.ndarray) -> tuple[Any, int, int]:
    """The base model after its budget, the steps, and the tokens passed."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(cell.seed)
    model = AutoModelForCausalLM.from_pretrained(corpus.base / "model").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    steps = max(1, round(EPOCHS * cell.keep * len(corpus.rows) / BATCH))
    budget = steps * BATCH * float(np.mean([len(row["input_ids"]) for row in corpus.rows]))
    made = passed = 0
    for part in batches(rows, cell.seed):
        done = passed / budget if cell.budget == "tokens" else made / steps
        if done >= 1:
            break
        factor = max(0.0, min((done + 0.5 / steps) / WARMUP, (1 - done) / (1 - WARMUP)))
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * factor
        batch = collate([corpus.rows[row] for row in part])
        model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        made, passed = made + 1, passed + int(batch["attention_mask"].sum())
    return model.eval(), made, passed


def run_cell(cell: Cell, setting: Setting, results: Path) -> str:
    """Run one cell in this process, and keep its result."""
    corpus = corpus_of(cell.data, cell.seed, setting)
    rows, selection_s = chosen(cell, corpus)
    began = time.perf_counter()
    model, steps, passed = train(cell, corpus, rows)
    train_s = time.perf_counter() - began
    found = {"dev": judge(model, corpus.dev), "target": judge(model, corpus.target)}
    keep(results, cell.name, {
        "cell": asdict(cell), "rows": len(corpus.rows), "kept": len(rows), "shape": setting.shape,
        "length": setting.length, "epochs": EPOCHS, "learning_rate": LEARNING_RATE, **found, "steps": steps,
        "tokens": passed, "selection_s": selection_s, "train_s": train_s,
        "arm": ARMS[cell.arm] and asdict(ARMS[cell.arm]),
    })  # fmt: skip
    return (
        f"dev {found['dev']['nll']:.4f}  target {found['target']['nll']:.4f}  {steps} steps, {passed:,} tokens, "
        f"{selection_s:.1f} + {train_s:.1f} s"
    )


def report(results: Path) -> str:
    """The table of a results folder for the documents."""
    return table(results / "corpus_selection")


def overview(results: Path) -> str:
    """All cells at a glance, under equal tokens."""
    return glance(results / "corpus_selection", list(ARMS), "tokens", ("dev", "target"))


def table(results: Path) -> str:
    """Mean nll by arm on both judges, beside random, with 95 % intervals over rows, and the time."""
    groups = grid(results)
    if not groups:
        return NOT_YET
    lines = []
    for (data, budget, share), arms in sorted(groups.items(), key=lambda entry: (*entry[0][:2], -entry[0][2])):
        one = next(iter(next(iter(arms.values())).values()))
        seeds = max(map(len, arms.values()))
        lines += [
            f"**{data}**, keep {share:g}, equal {budget}: {one['rows']:,} rows of at most {one['length']} bytes, "
            f"{one['shape']}, {seeds} seed{'s' * (seeds > 1)}.\n",
            "| arm | dev nll | less than random | target nll | less than random | tokens | selection s | training s |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        ]
        means = {arm: _mean(runs, lambda run: run["dev"]["nll"]) for arm, runs in arms.items()}
        for arm in sorted(arms, key=lambda name: means[name]):
            runs, cells = arms[arm], []
            for judged in ("dev", "target"):
                own = [run[judged]["nll"] for run in runs.values()]
                cells.append(f"{np.mean(own):.3f}" + (f" ± {np.std(own, ddof=1):.3f}" if len(own) > 1 else ""))
                cells.append("" if arm == "random" else difference(runs, arms.get("random", {}), judged))
            times = [f"{_mean(runs, lambda run, of=of: run[of]):,.1f}" for of in ("selection_s", "train_s")]
            tokens = f"{_mean(runs, lambda run: run['tokens']):,.0f}"
            lines.append(f"| `{arm}` | {' | '.join([*cells, tokens, *times])} |")
        lines.append("")
    return "\n".join(lines).rstrip()


def costs(results: Path) -> str:
    """What each method costs, beside one epoch on the corpus, and where it is known to lose."""
    from datadiet.registry import find, parse_call

    kept = [
        json.loads(path.read_text(encoding="utf-8")) for path in sorted((results / "corpus_selection").glob("*.json"))
    ]
    if not kept:
        return NOT_YET
    epoch = np.median([one["train_s"] / one["steps"] * one["rows"] / BATCH for one in kept])
    lines = [
        "| arm | score and selector | s for 1,000 rows | h for 1,000,000 rows | epochs of training | known to lose |",
        "| --- | --- | ---: | ---: | ---: | --- |",
    ]
    for name, arm in ARMS.items():
        own = [one["selection_s"] / one["rows"] for one in kept if one["cell"]["arm"] == name]
        if arm is None or not own:
            continue
        score, select = parse_call(arm.score)[0], parse_call(arm.select.format(middle=0))[0]
        told = find("select", select) if score == "length" and select != "hardest" else find("score", score)
        per_row = float(np.median(own))
        figures = f"{1e3 * per_row:.2f} | {1e6 * per_row / 3600:.2f} | {per_row * kept[0]['rows'] / epoch:.2f}"
        calls = f"`{arm.score}`, `{arm.select.format(middle='...')}`"
        lines.append(f"| `{name}` | {calls} | {figures} | {told.loses if told else ''} |")
    return "\n".join(lines)


def _mean(runs: Mapping[int, Any], get: Any) -> float:
    return float(np.mean([get(run) for run in runs.values()]))


def main() -> None:
    parser = grid_parser(
        __doc__, "corpus_selection", sets=SETS, budgets=BUDGETS, arms=ARMS, keeps=KEEPS, rows=ROWS, dev_rows=DEV_ROWS,
        length=LENGTH,
    )  # fmt: skip
    parser.add_argument("--base-rows", type=int, default=BASE_ROWS)
    args = parser.parse_args()
    if args.table:
        print(table(args.results))
        return
    setting = Setting(args.data_root, args.rows, args.dev_rows, args.base_rows, args.length, args.shape)
    cells = [
        Cell(data, budget, arm, share, seed)
        for seed in range(args.first_seed, args.seeds)
        for data in args.sets
        for share in args.keeps
        for budget in args.budgets
        for arm in args.arms
        if (data, arm) != ("gsm8k", "smart")  # its rows have no tasks
    ]
    done = each_once(
        cells,
        args.results,
        lambda cell: run_cell(cell, setting, args.results),
    )
    sys.exit(0 if done else 1)


if __name__ == "__main__":
    main()
