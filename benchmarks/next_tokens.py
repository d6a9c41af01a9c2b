"""What the signals of a causal language model cost: of its training step, in memory, and in a scoring pass.

    python -m benchmarks.next_tokens                                           # SmolLM-shaped, 135 M parameters
    python -m benchmarks.next_tokens --layers 2 --hidden 64 --words 500 --tokens 32 --repeats 2 --output build/n.json

A Llama-shaped model of random weights trains on random tokens by AdamW (forward, loss, backward, step). In turns with
the steps of training, and on the same logits, the signals are read off (`share`: of the step), the numbers of TRL's
fused head are asked with and without the sum of squares of which errors follow (`fused`: the difference, of a step of
it), and batches pass without gradients and are scored (`pass_ratio`: tokens a second against training). Memory is the
peak of what `token_signals` holds at once, over its allocations. Bars: 3 % of a step, 64 MiB, 2.5 times.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.common import environment, keep_figures, parser_of, quartiles, rounded, synchronize
from datadiet.scores.tokens import row_nll, token_signals
from datadiet.tasks.reading import fused_tokens
from datadiet.training.machine import best_device

MOST_SHARE, MOST_BYTES, LEAST_RATIO = 0.03, 64 * 2**20, 2.5


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


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of(__doc__, "next_tokens")
    for name, value, text in (
        ("layers", 30, "of the model"), ("hidden", 576, "size of a hidden vector"), ("words", 32_000, "vocabulary"),
        ("batch", 2, "rows"), ("tokens", 256, "of a row"), ("repeats", 5, "after one that warms up"),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value, help=f"{text} (default: {value:,})")
    options = parser.parse_args(arguments)
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
