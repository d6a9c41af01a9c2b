"""What the signals of a causal language model cost, and what a diet of its rows or tokens saves.

    python -m benchmarks.next_tokens                                           # SmolLM-shaped, 135 M parameters
    python -m benchmarks.next_tokens --layers 2 --hidden 64 --words 500 --tokens 32 --repeats 2 --output build/n.json
    python -m benchmarks.next_tokens --savings DATA --repeats 3                # a byte-level Llama: half an hour
    python -m benchmarks.next_tokens --savings DATA --repeats 1 --rows 64 --output build/savings.json    # a look

A Llama-shaped model of random weights trains on random tokens by AdamW (forward, loss, backward, step). In turns with
the steps of training, and on the same logits, the signals are read off (`share`: of the step), the numbers of TRL's
fused head are asked with and without the sum of squares of which errors follow (`fused`: the difference, of a step of
it), and batches pass without gradients and are scored (`pass_ratio`: tokens a second against training). Memory is the
peak of what `token_signals` holds at once, over its allocations. Bars: 3 % of a step, 64 MiB, 2.5 times.

`--savings` fine-tunes a byte-level Llama of 1 M parameters from random weights, as `datadiet finetune --task causal-lm`
does, on rows of DATA (dolly15k: `prompt` and `response`) that have at most 256 bytes: in full, and on diets of rows and
of tokens, in turns. What a diet saves of `finetune_s` stands beside the tokens that it did not train. Seconds are of
one thread of the processor, so that what else the machine does counts less; of the wall where an accelerator trains.
Bar: at keep 0.5 the diet saves at least 95 % of the token ceiling.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.byte_lm import write_model
from benchmarks.common import RESULTS, environment, keep_figures, parser_of, quartiles, rounded, synchronize
from datadiet import ledger
from datadiet.config import FinetuneConfig
from datadiet.jobs.finetune import finetune
from datadiet.scores.tokens import row_nll, token_signals
from datadiet.tasks.reading import fused_tokens
from datadiet.training.machine import best_device

MOST_SHARE, MOST_BYTES, LEAST_RATIO = 0.03, 64 * 2**20, 2.5
LEAST_SAVED, SHAPE, LENGTH, DEV_ROWS, EPOCHS = 0.95, "llama-1m", 256, 16, 4
_TOKENS = "q_tuning(keep=0.5, calibration=false, action={})"
RUNS: dict[str, dict[str, Any]] = {
    "full": {"keep": 1.0},
    "keep 0.5": {"keep": 0.5},  # with a race, where there are rows enough for one
    "keep 0.5, hardest": {"keep": 0.5, "select": "hardest"},
    "half of the answer tokens, mask": {"keep": 1.0, "tokens": _TOKENS.format("mask")},
    "half of the answer tokens, drop": {"keep": 1.0, "tokens": _TOKENS.format("drop")},
}


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    synchronize()
    start = time.perf_counter()
    found = call()
    synchronize()
    return time.perf_counter() - start, found


def peak_bytes_of(call: Callable[[], Any]) -> int:
    """The most bytes held at once of what a call allocates on the CPU or an accelerator."""
    if torch.accelerator.is_available():
        torch.accelerator.reset_peak_memory_stats()
        before = torch.accelerator.memory_allocated()
        call()
        return int(torch.accelerator.max_memory_allocated() - before)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        call()
    held = peak = 0
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda one: one.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def model_of(options: argparse.Namespace) -> LlamaForCausalLM:
    torch.manual_seed(0)
    heads = max(1, options.hidden // 64)
    config = LlamaConfig(
        vocab_size=options.words, hidden_size=options.hidden, num_hidden_layers=options.layers, head_dim=64,
        intermediate_size=options.hidden * 8 // 3, num_attention_heads=heads, num_key_value_heads=max(1, heads // 3),
        tie_word_embeddings=True,
    )  # fmt: skip
    return LlamaForCausalLM(config).to(best_device())


class Contest:
    """Training steps, signals and passes of one model in turns."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.model = model_of(options)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        shape = (options.batch, options.tokens)
        self.ids = torch.randint(options.words, shape, generator=torch.Generator().manual_seed(0)).to(best_device())

    def step(self, **fused: Any) -> Any:
        """One optimizer step; its outputs."""
        outputs = self.model(self.ids, labels=self.ids, use_cache=False, **fused)
        outputs.loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return outputs

    def scored(self) -> torch.Tensor:
        """A scoring pass, as a diet makes it: without the loss of the model."""
        with torch.inference_mode():
            return row_nll(token_signals(self.model(self.ids, use_cache=False).logits, self.ids))

    def fuse(self, *more: str) -> None:
        from trl.trainer.utils import add_fused_lm_head

        self.model.__dict__.pop("forward", None)
        add_fused_lm_head(self.model, outputs=("log_probs", "entropy", "is_top1", *more))

    def run(self, repeats: int) -> dict[str, list[float]]:
        """Seconds of each repeat; the first, which warms up, is not kept."""
        seconds: dict[str, list[float]] = {name: [] for name in ("step", "signals", "pass", "fused", "fused_errors")}
        heads = {"fused": (), "fused_errors": ("log_sum_sq_probs",)}
        for repeat in range(repeats + 1):
            self.model.train().__dict__.pop("forward", None)
            spent, outputs = timed(self.step)
            seconds["step"].append(spent)
            logits = outputs.logits.detach()
            del outputs
            seconds["signals"].append(timed(lambda logits=logits: token_signals(logits, self.ids))[0])
            del logits
            self.model.eval()
            seconds["pass"].append(timed(self.scored)[0])
            self.model.train()
            for name in list(heads)[:: 1 if repeat % 2 else -1]:  # whoever comes second has the other's caches
                self.fuse(*heads[name])
                seconds[name].append(timed(lambda: fused_tokens(self.step(fused_lm_head=True)))[0])
        return {name: values[1:] for name, values in seconds.items()}


def write_data(source: Path, folder: Path, rows: int) -> None:
    """The first rows of a set that are short enough, and dev rows after them."""
    kept: list[str] = []
    with gzip.open(source / "train.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            if len((row["prompt"] + row["response"]).encode()) < LENGTH - 8 and len(kept) < rows + DEV_ROWS:
                kept.append(json.dumps({name: row[name] for name in ("prompt", "response")}) + "\n")
    folder.mkdir()
    for split, part in (("train", kept[:-DEV_ROWS]), ("dev", kept[-DEV_ROWS:])):
        (folder / f"{split}.jsonl").write_text("".join(part), encoding="utf-8")


def savings(source: Path, rows: int, repeats: int) -> dict[str, Any]:
    """Every run once in each repeat, the order turned round every other time; one short run warms up."""
    if not torch.accelerator.is_available():
        torch.set_num_threads(1)
        vars(ledger)["time"] = SimpleNamespace(perf_counter=time.process_time)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in RUNS}
    with TemporaryDirectory(prefix="datadiet-bench-") as place:
        work = Path(place)
        write_data(source, work / "data", rows)
        write_model(work / "model", SHAPE)

        def run(name: str, folder: str, epochs: int) -> dict[str, Any]:
            return finetune(FinetuneConfig(
                data=str(work / "data"), task="causal-lm", model=str(work / "model"), output=str(work / folder),
                epochs=epochs, batch_size=8, max_length=LENGTH, learning_rate=2e-3, seed=1, **RUNS[name],
            ))  # fmt: skip

        run("full", "first", 1)
        for repeat in range(repeats):
            for name in list(RUNS)[:: -1 if repeat % 2 else 1]:
                result = run(name, f"{list(RUNS).index(name)}-{repeat}", EPOCHS)
                found[name].append(result)
                print(f"{repeat}: {name} {result['cost']['finetune_s']:.1f} s", flush=True)
    made: dict[str, Any] = {}
    for name, results in found.items():
        whole = [result["cost"]["finetune_s"] for result in found["full"]]
        spent = [result["cost"]["finetune_s"] for result in results]
        pruned, first = results[0]["tokens"], results[0]
        made[name] = {
            "seconds": rounded(spent, 3),
            "saved": rounded(quartiles([1 - one / all_ for one, all_ in zip(spent, whole, strict=True)])),
            "ceiling": round(first["ceiling"]["tokens_saved"], 5),
            "padded_saved": round(1 - first["cost"]["tokens_padded"] / found["full"][0]["cost"]["tokens_padded"], 5),
            "answer_tokens_pruned": None if pruned is None else round(1 - pruned["share"], 5),
            "score_s": rounded([result["cost"]["score_s"] + result["cost"]["select_s"] for result in results], 3),
            "probe_s": rounded([result["cost"]["probe_s"] for result in results], 3),
        }
    return {"runs": made, "rows": rows, "epochs": EPOCHS, "repeats": repeats, "environment": environment("fp32")}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of(__doc__, "next_tokens")
    parser.add_argument("--savings", type=Path, metavar="DATA", help="what diets save, on this set, and nothing else")
    parser.add_argument("--rows", type=int, default=768, help="of training, with --savings (default: 768)")
    for name, value, text in (
        ("layers", 30, "of the model"), ("hidden", 576, "size of a hidden vector"), ("words", 32_000, "vocabulary"),
        ("batch", 2, "rows"), ("tokens", 256, "of a row"), ("repeats", 5, "after one that warms up"),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value, help=f"{text} (default: {value:,})")
    options = parser.parse_args(arguments)
    if options.savings is not None:
        figures = savings(options.savings, options.rows, options.repeats)
        own = options.output != RESULTS / "next_tokens.json"
        keep_figures(options.output if own else RESULTS / "token_savings.json", SHAPE, figures)
        for name, one in figures["runs"].items():
            print(f"{name}: saves {one['saved'][1]:.1%} of the time; ceiling {one['ceiling']:.1%}")
        return
    contest = Contest(options)
    seconds = contest.run(options.repeats)
    contest.model.__dict__.pop("forward", None)
    with torch.no_grad():
        logits = contest.model(contest.ids, use_cache=False).logits
    peak = peak_bytes_of(lambda: token_signals(logits, contest.ids))
    median = {name: quartiles(values)[1] for name, values in seconds.items()}
    shares = [one / whole for one, whole in zip(seconds["signals"], seconds["step"], strict=True)]
    errors = [(more - less) / less for more, less in zip(seconds["fused_errors"], seconds["fused"], strict=True)]
    figures = {
        "parameters": sum(weight.numel() for weight in contest.model.parameters()),
        "vocabulary": options.words, "tokens": options.batch * options.tokens, "repeats": options.repeats,
        "seconds": {name: rounded(values) for name, values in seconds.items()},
        "share": rounded(quartiles(shares)), "fused": rounded(quartiles(errors)), "peak_bytes": peak,
        "pass_ratio": round(median["step"] / median["pass"], 3), "environment": environment("fp32"),
    }  # fmt: skip
    keep_figures(options.output, f"{round(figures['parameters'] / 1e6)}M", figures)
    share, bytes_, ratio = figures["share"][1], peak / 2**20, figures["pass_ratio"]
    print(f"signals: {share:.2%} of a step (bar {MOST_SHARE:.0%}: {'met' if share <= MOST_SHARE else 'missed'})")
    print(f"of TRL's fused head, errors too: {figures['fused'][1]:+.2%} of a step")
    print(f"memory: {bytes_:.1f} MiB at once (bar 64: {'met' if peak <= MOST_BYTES else 'missed'})")
    print(f"a scoring pass: {ratio:.2f} x training (bar {LEAST_RATIO}: {'met' if ratio >= LEAST_RATIO else 'missed'})")


if __name__ == "__main__":
    main()
