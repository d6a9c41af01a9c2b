"""The tables of what runs cost (time saved, overhead, scoring, selectors, memory, imports), and what proof costs."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.grid import SETS
from benchmarks.report import numbers
from benchmarks.report.markdown import NOT_YET, SET_NAMES, machines, met, paragraphs, percent, table
from benchmarks.report.numbers import Key, Run
from benchmarks.training_scale import PHASES, slope


def speed(results: Path) -> str:
    """Savings by set, keep and rescore mode; first what better batches alone save, where that was measured."""
    groups = numbers.load_groups(results / "speed")
    order = sorted(groups, key=lambda key: (list(SETS).index(key.set), -key.keep, _RESCORE[_rescore(groups[key])]))
    rows = []
    for key in order:
        if key.method == "plain":
            rows += _batching(groups[key], groups.get(Key(key.set, "full", 1.0), {}))
            continue
        found = numbers.saving(groups[key], groups.get(Key(key.set, "full", 1.0), {}))
        if key.method != "full" and found is not None:
            mode, (whole, diet) = _rescore(groups[key]), found.finetune_s
            seconds = [f"{whole:.0f} s", f"{diet:.0f} s", percent(found.finetune), percent(found.total)]
            told = f"{percent(found.of_ceiling)} {met(found.of_ceiling >= 0.95)}" if mode == "none" else ""
            share = [percent(found.ceiling), told or percent(found.of_ceiling), str(found.count)]
            rows.append([_set_name(groups[key]), f"{key.keep:g}", f"`{mode}`", *seconds, *share])
    said = "Target for the default, `none`: at least 95 % of the ceiling. Medians over the repeats."
    if any(key.method == "plain" for key in order):
        said += (
            " Better batches: full data in the batches of the plain Trainer (left) and in those of every other row "
            "(right); the ceiling is here the share of the positions that it spares, padding included."
        )
    if not rows:
        return NOT_YET
    head = ["set", "keep", "rescore", "before", "after", "fine-tuning saved", "total saved", "ceiling"]
    every = [run for runs in groups.values() for run in runs.values()]
    return paragraphs(
        table([*head, "of the ceiling", "repeats"], rows, left=3), said, machines(run["environment"] for run in every)
    )


def _batching(plain: Mapping[int, Run], full: Mapping[int, Run]) -> list[list[str]]:
    """What the length groups save without a diet, as a row; none where no seed has both runs."""
    counted = [
        {seed: run for seed, run in runs.items() if "tokens_padded" in run["cost"]} for runs in (full, plain)
    ]  # older runs on everything had the batches of the plain Trainer
    found = numbers.saving(*counted, tokens="tokens_padded")
    if found is None:
        return []
    seconds = [f"{time:.0f} s" for time in found.finetune_s]
    shares = [found.finetune, found.total, found.ceiling, found.of_ceiling]
    return [[_set_name(plain), "1", "better batches", *seconds, *map(percent, shares), str(found.count)]]


_RESCORE = {"none": 0, "dropped": 1, "all": 2}


def _rescore(runs: Mapping[int, Run]) -> str:
    return str(next(iter(runs.values()))["diet"]["rescore"])


def _set_name(runs: Mapping[int, Run]) -> str:
    run = next(iter(runs.values()))
    return f"{SET_NAMES[run['cell']['set']][0]}, {run['data']['rows']['train']:,} rows"


def _read(results: Path, name: str) -> dict[str, Any]:
    path = results / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def _with_machines(text: str, cases: Mapping[str, Any]) -> str:
    return paragraphs(text, machines(case["environment"] for case in cases.values()))


def _case_name(name: str, case: Mapping[str, Any]) -> str:
    return f"{SET_NAMES[name][0] if name in SET_NAMES else name}, {case['data']['rows']:,} rows"


def overhead(results: Path) -> str:
    cases = _read(results, "overhead")
    if not cases:
        return NOT_YET
    rows = []
    for name, case in sorted(cases.items()):
        low, _, high = case["paired_quartiles"]
        seconds = [f"{case[player]:.3f} s" for player in ("plain_s", "diet_s")]
        blocks = [f"{case['blocks']} x {case['steps']} steps", "equal" if case["same_loss"] else "**differ**"]
        ratio = [f"{case['ratio']:.4f}", f"{low:.4f} to {high:.4f}", f"at most 1.02: {met(case['ratio'] <= 1.02)}"]
        rows.append([_case_name(name, case), *blocks, *seconds, *ratio])
    head = ["set", "blocks", "losses", "plain Trainer", "DietTrainer, keep 1.0", "ratio of medians"]
    return _with_machines(table([*head, "quartiles", "target"], rows, left=3), cases)


def recorder(results: Path) -> str:
    cases = _read(results, "recorder")
    if not cases:
        return NOT_YET
    rows = []
    for name, case in sorted(cases.items()):
        seconds = [f"{case['epochs']}", f"{case['train_s']:.1f} s", f"{case['record_s']:.2f} s"]
        share = f"{100 * case['share']:.2f} %, {_met('1 %', case['share'] <= 0.01)}"
        sizes = [f"{case[kind]:.1f}, {_met('32', case[kind] <= 32)}" for kind in ("memory_bytes", "disk_bytes")]
        rows.append([_case_name(name, case), *seconds, share, *sizes])
    head = ["set", "epochs", "training", "record", "share", "bytes in memory", "bytes on disk"]
    return _with_machines(table(head, rows), cases)


def scoring(results: Path) -> str:
    cases = _read(results, "scoring")
    if not cases:
        return NOT_YET
    rows = []
    for name, case in sorted(cases.items()):
        low, _, high = case["paired_quartiles"]
        speeds = [f"{case[kind]:,.0f} /s" for kind in ("train_examples_per_s", "score_examples_per_s")]
        ratio = [f"{case['ratio']:.2f}", f"{low:.2f} to {high:.2f}", f"at least 4: {met(case['ratio'] >= 4)}"]
        rows.append([_case_name(name, case), *speeds, *ratio])
    return _with_machines(table(["set", "training", "scoring", "ratio", "quartiles", "target"], rows), cases)


_SECONDS, _GIGABYTES = {10_000_000: 1.0, 100_000_000: 12.0}, {10_000_000: 0.5}

_DYNAMIC = (1_000_000, 0.05, ("infobatch", "ucb", "epsilon", "seta"))  # values, seconds, selectors of every epoch


def selectors(results: Path) -> str:
    cases = dict(sorted(_read(results, "selectors").items(), key=lambda item: int(item[0])))
    if not cases:
        return NOT_YET
    rows = []
    for number, case in cases.items():
        for name, row in case["selectors"].items():
            digits = 3 if int(number) <= _DYNAMIC[0] else 2
            seconds = [f"{row['seconds']:.{digits}f} s", f"{row['fastest']:.{digits}f} to {row['slowest']:.{digits}f}"]
            times = [f"{row['peak_gb']:.2f} GB", f"{row['times_hardest']:.1f}"]
            target = _selector_target(int(number), name, row)
            rows.append([f"{int(number):,}", name, *seconds, *times, target])
    head = ["values", "selector", "median", "range", "memory above", "x `hardest`", "target"]
    return _with_machines(table(head, rows, left=2), cases)


def plans(results: Path) -> str:
    """`Diet.plan` without and with the label-noise guard."""
    cases = _read(results, "plans")
    if not cases:
        return NOT_YET
    rows = []
    for number, case in sorted(cases.items(), key=lambda item: int(item[0])):
        for name, row in case["plans"].items():
            extra = row["peak_gb"] - case["plans"]["no guard"]["peak_gb"]
            target = f"2 s, 0.2 GB more: {met(row['seconds'] <= 2 and extra <= 0.2)}" if name == "guard" else ""
            spread = f"{row['fastest']:.2f} to {row['slowest']:.2f}"
            rows.append(
                [f"{int(number):,}", name, f"{row['seconds']:.2f} s", spread, f"{row['peak_gb']:.2f} GB", target]
            )
    head = ["rows", "plan", "median", "range", "memory above", "target"]
    return _with_machines(table(head, rows, left=2), cases)


def _selector_target(number: int, name: str, row: Mapping[str, float]) -> str:
    """`hardest` has a target in seconds and memory; `random`, epsilon and the floors one in times `hardest`.

    Those that a diet may call at every epoch have one in seconds from a million values.
    """
    if number == _DYNAMIC[0]:
        first = name.split()[0].rstrip(",")
        dynamic = first in _DYNAMIC[2] and "k-means" not in name
        return f"{_DYNAMIC[1] * 1000:.0f} ms: {met(row['seconds'] <= _DYNAMIC[1])}" if dynamic else ""
    if name == "hardest" and number in _SECONDS:
        holds = row["seconds"] <= _SECONDS[number] and row["peak_gb"] <= _GIGABYTES.get(number, float("inf"))
        light = f", {_GIGABYTES[number]} GB" if number in _GIGABYTES else ""
        return f"{_SECONDS[number]:g} s{light}: {met(holds)}"
    if number in _SECONDS and ("floor" in name or name.split()[0] in ("random", "epsilon")):
        return f"3 x: {met(row['times_hardest'] <= 3)}"
    return ""


def memory(results: Path) -> str:
    cases = _read(results, "memory")
    if not cases:
        return NOT_YET
    names = {"plain": "plain Trainer", "none": "diet, `none`", "dropped": "diet, `dropped`", "all": "diet, `all`"}
    rows = []
    for name, case in sorted(cases.items()):
        for variant in (variant for variant in names if variant in case["variants"]):
            row = case["variants"][variant]
            plain, holds = variant == "plain", row["peak_bytes"] <= case["allowed_bytes"]
            extra = (
                ["", "", ""] if plain else [f"{row['ratio']:.3f}", f"{row['extra_bytes_per_example']:.0f}", met(holds)]
            )
            rows.append([_case_name(name, case), names[variant], f"{row['peak_bytes'] / 1e6:.0f} MB", *extra])
    target = "Target: at most 1.05 times the plain Trainer's peak plus 64 bytes per training example. Medians."
    head = ["set", "run", "peak", "x plain", "extra bytes per example", "target"]
    return _with_machines(paragraphs(table(head, rows, left=2), target), cases)


def training_scale(results: Path) -> str:
    """What a diet takes of 100,000 to 100 million rows."""
    cases = dict(sorted(_read(results, "training_scale").items(), key=lambda item: int(item[0])))
    if not cases:
        return NOT_YET
    rows = []
    for number, case in cases.items():
        count, seconds = int(number), case["seconds"]
        times = [f"{seconds[name]:.2f} s" for name in PHASES]
        sizes = [f"{case['state_bytes'] / count:.1f} B", f"{case['peak_bytes'] / 1e9:.2f} GB"]
        rows.append([f"{count:,}", *times, *sizes])
    first = table(["training rows", *PHASES, "state per row", "peak"], rows, left=0)
    rows = [
        [f"{int(number):,}", *(f"{plan['seconds']:.2f} s" for plan in case["plans"].values())]
        for number, case in cases.items()
    ]
    plans = table(["plan of", *(f"`{name}`" for name in next(iter(cases.values()))["plans"])], rows, left=0)
    state = max(case["state_bytes"] / int(number) for number, case in cases.items())
    targets = [f"state at most 64 B per row: {met(state <= 64)} ({state:.1f} B)"]
    whole = {number: sum(case["seconds"][name] for name in PHASES) for number, case in cases.items()}
    if (found := slope(cases, whole)) is not None:
        targets.append(f"slope of all seconds over rows at most 1.05: {met(found <= 1.05)} ({found:.3f})")
    if largest := cases.get("100000000"):
        held = [f"`{name}` {met(plan['seconds'] <= 12)}" for name, plan in largest["plans"].items()]
        targets.append(f"a plan of 100 million rows at most 12 s: {', '.join(held)}")
    return _with_machines(paragraphs(first, plans, f"Targets: {'; '.join(targets)}."), cases)


def next_tokens(results: Path) -> str:
    """What the signals of a language model cost."""
    cases = _read(results, "next_tokens")
    if not cases:
        return NOT_YET
    rows = []
    for name, case in cases.items():
        low, middle, high = case["share"]
        peak, ratio = case["peak_bytes"] / 2**20, case["pass_ratio"]
        rows += [
            [
                f"{name}, {case['tokens']:,} tokens of {case['vocabulary']:,}: signals, share of a step",
                f"{percent(middle)} ({percent(low)} to {percent(high)})",
                f"at most 3 %: {met(middle <= 0.03)}",
            ],
            ["memory of the signals", f"{peak:.1f} MiB", f"at most 64 MiB: {met(peak <= 64)}"],
            ["a scoring pass against training", f"{ratio:.2f} x", f"at least 2.5 x: {met(ratio >= 2.5)}"],
        ]
    return _with_machines(table(["what", "median (quartiles)", "target"], rows), cases)


def token_savings(results: Path) -> str:
    """What diets of rows and of tokens save of the time of a language model, beside the tokens."""
    cases = _read(results, "token_savings")
    if not cases:
        return NOT_YET
    rows, bars = [], []
    for case in cases.values():
        for name, one in case["runs"].items():
            saved, ceiling, pruned = one["saved"][1], one["ceiling"], one["answer_tokens_pruned"]
            share = percent(saved / ceiling, 0) if ceiling else "-"
            figures = [percent(ceiling), percent(one["padded_saved"]), percent(saved), share]
            rows.append([f"`{name}`", "-" if pruned is None else percent(pruned), *figures, str(case["repeats"])])
            if name.startswith("keep 0.5"):
                bars.append(f"Target at {name}: at least 95 % of the ceiling: {met(saved >= 0.95 * ceiling)}.")
    head = ["run", "answer tokens pruned", "ceiling", "positions saved", "time saved", "of the ceiling", "repeats"]
    return _with_machines(paragraphs(table(head, rows), *bars), cases)


def imports(results: Path) -> str:
    cases = _read(results, "imports")
    if not cases:
        return NOT_YET
    rows = []
    for case in cases.values():
        seconds = [f"{case[name]:.3f} s" for name in ("bare_s", "import_s", "above_bare_s")]
        rows.append([*seconds, str(case["repeats"]), f"at most 0.3 s: {met(case['above_bare_s'] <= 0.3)}"])
    head = ["bare Python", "`import datadiet`", "above bare", "repeats", "target"]
    return _with_machines(table(head, rows, left=0), cases)


def comparing(results: Path) -> str:
    cases = _read(results, "comparing")
    if not cases:
        return NOT_YET
    rows = []
    if case := cases.get("cached"):
        what = f"{case['runs']} finished runs ({case['methods']} methods and the baselines x {case['seeds']} seeds)"
        parts = f"compare {case['compare_s']:.1f} s, page {case['report_s']:.1f} s"
        rows.append(
            [
                f"{what}, {case['test_rows']:,} test rows",
                parts,
                f"{case['seconds']:.1f} s",
                _met("10 s", case["seconds"] <= 10),
            ]
        )
    if case := cases.get("overhead"):
        name = f"{case['data']['name'].upper()}, {case['data']['rows']:,} rows"
        parts = f"processes {case['processes_s']:.1f} s, command {case['compare_s']:.1f} s"
        above = f"{percent(case['overhead'])} above"
        rows.append(
            [
                f"{case['runs']} real runs of {case['epochs']} epochs, {name}",
                parts,
                above,
                _met("3 %", case["overhead"] <= 0.03),
            ]
        )
    return _with_machines(table(["what", "seconds", "in all", "target"], rows, left=2), cases)


def _met(most: str, holds: bool) -> str:
    return f"at most {most}: {met(holds)}"


_PAGES = {100_000: "page under 5 MB", 1_000_000: "60 s, 2 GB, page 8 MB"}


def report(results: Path) -> str:
    cases = dict(sorted(_read(results, "report").items(), key=lambda item: int(item[0])))
    if not cases:
        return NOT_YET
    rows = []
    for number, case in cases.items():
        folder = f"{(case['folder_bytes'] + case['data_bytes']) / 1e6:,.0f} MB"
        figures = [
            f"{case['seconds']:.1f} s",
            f"{case['peak_bytes'] / 1e6:,.0f} MB",
            f"{case['page_bytes'] / 1e6:.2f} MB",
        ]
        rows.append([f"{int(number):,}", str(case["rounds"]), folder, *figures, _report_target(int(number), case)])
    head = ["training examples", "rounds", "run and data on disk", "seconds", "peak", "page", "target"]
    return _with_machines(table(head, rows, left=0), cases)


def _report_target(examples: int, case: Mapping[str, Any]) -> str:
    page, large = case["page_bytes"] / 1e6, case["seconds"] <= 60 and case["peak_bytes"] <= 2e9
    holds = page < 5 if examples == 100_000 else large and page <= 8
    return f"{_PAGES[examples]}: {met(holds)}" if examples in _PAGES else ""


ALLOWED_LOSS, BAR = 0.005, 4.0  # of dev accuracy; the times that a diet is to be faster than the script
_ARMS = {
    "script": "script, fp32",
    "script_random": "script, bf16",
    "script_grouped": "script, bf16, grouped",
    "short": "`short`",
    "diet": "diet",
}
TIMES = ("finetune_s", "total_s")


def plain_script(results: Path, name: str = "plain_script") -> str:
    """Seconds of scripts, `short` and diets to the quality of the plain script less half a point, by set."""
    cases = _read(results, name)
    if not cases:
        return NOT_YET
    groups: dict[str, dict[tuple[str, float], list[Run]]] = {}
    for case in sorted(cases.values(), key=lambda case: int(case["cell"]["seed"])):
        cell = case["cell"]
        groups.setdefault(cell["set"], {}).setdefault((cell["arm"], cell["keep"]), []).append(case)
    rows: list[list[str]] = []
    said: list[str] = []
    for set_name, arms in groups.items():
        if ("script", 1.0) in arms:
            more, bar = _of_set(set_name, arms)
            rows += more
            said.append(bar)
    if not rows:
        return NOT_YET
    head = ["set", "arm", "keep", "steps", "dev", "test", "target", "fine-tuning", "total", "fine-tuning x", "total x"]
    note = (
        "Target: the mean dev accuracy of the plain script less 0.5 points, by the mean of an arm. Seconds are medians "
        "over the seeds; x: how many times faster than the whole plain script. Total is everything from before the "
        "imports to the saved model, evaluations included. `until the target`: inside the run, which is known only "
        "afterwards."
    )
    return paragraphs(
        table(head, rows, left=3), "\n".join(said), note, machines(case["environment"] for case in cases.values())
    )


def _of_set(name: str, arms: Mapping[tuple[str, float], Sequence[Run]]) -> tuple[list[list[str]], str]:
    """The rows of a set, and the sentence on its bar."""
    plain = arms["script", 1.0]
    target = statistics.mean(run["dev"] for run in plain) - ALLOWED_LOSS
    whole = _medians(plain)
    rows, reached = [], {}
    for (arm, keep), runs in sorted(arms.items(), key=lambda item: (list(_ARMS).index(item[0][0]), -item[0][1])):
        dev, test = (statistics.mean(run[split] for run in runs) for split in ("dev", "test"))
        seconds, there = _medians(runs), dev >= target
        shown = [_ARMS[arm], f"{keep:g}", f"{statistics.median(run['steps'] for run in runs):,.0f}"]
        quality = [f"{100 * dev:.2f}", f"{100 * test:.2f}", "reached" if there else "missed"]
        rows.append([name, *shown, *quality, *_times(seconds, whole)])
        if there:
            reached[arm] = min(reached.get(arm, seconds), seconds)
        if "epochs" in runs[0]:
            found = [next((line for line in run["epochs"] if line["accuracy"] >= target), None) for run in runs]
            never = found.count(None)
            first = _medians([line or run for line, run in zip(found, runs, strict=True)])
            words = "reached" if not never else f"{never} of {len(runs)} never"
            rows.append([name, f"{_ARMS[arm]}, until the target", "", "", "", "", words, *_times(first, whole)])
    count = f"{len(plain)} {'repeat' if len(plain) == 1 else 'repeats'}"
    if "diet" not in reached:
        return rows, f"- {name}, {count}: no diet of the ladder reaches the target; bar **missed**"
    ratios = [before / after for before, after in zip(whole, reached["diet"], strict=True)]
    beside = [arm for arm in _ARMS if arm in reached and arm not in ("script", "diet")]
    others = [f"{_ARMS[arm]} {whole[0] / reached[arm][0]:.1f}" for arm in beside]
    faster = f"the diet is {ratios[0]:.1f} times faster in fine-tuning and {ratios[1]:.1f} in all"
    return rows, f"- {name}, {count}: {faster}; at least {BAR:g} in fine-tuning: {met(ratios[0] >= BAR)}" + (
        f" (fine-tuning of the others: {', '.join(others)})" if others else ""
    )


def _medians(runs: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    fine, total = (statistics.median(run[key] for run in runs) for key in TIMES)
    return fine, total


def _times(seconds: tuple[float, float], whole: tuple[float, float]) -> list[str]:
    ratios = [f"{before / after:.1f}" for before, after in zip(whole, seconds, strict=True)]
    return [*(f"{time:.0f} s" for time in seconds), *ratios]


def corpus_scale(results: Path) -> str:
    """What `benchmarks.corpus_scale` has measured: choices, engines, texts, and jobs that were killed."""
    found = _read(results, "corpus_scale")
    if not found:
        return NOT_YET
    rows = []
    if case := found.get("select"):
        slowest = max(case["choices"], key=lambda what: case["choices"][what]["seconds"])
        most, peak = case["choices"][slowest]["seconds"], max(one["peak_bytes"] for one in case["choices"].values())
        figure = f"{most:.1f} s for the slowest of {len(case['choices'])}, {peak / 1e9:.2f} GB"
        target = f"60 s, 2 GB: {met(most <= 60 and peak <= 2e9)}"
        rows.append(["`datadiet select`", f"{case['rows']:,} scores in {case['parts']} files", figure, "", target])
    if case := found.get("engines"):
        figure = ", ".join(f"{engine} {statistics.mean(own):,.0f} rows/s" for engine, own in case["rates"].items())
        least = min(case["rows"] / max(own) for own in case["rates"].values())
        shape = f"{case['rows']:,} rows, a classifier of 128 x 4; {least:.0f} s and more"
        rows.append(["a pass by Ray", shape, f"{figure}: {case['share']:.2f}", "", f"0.9: {met(case['share'] >= 0.9)}"])
    for name, what, least in _OF_TEXTS:
        if case := found.get(name):
            figures = [f"{case['rate']:,} rows/s", f"{2 * case['rate_of_cpu']:,} rows/s"]
            target = f"{least:,} rows/s: {met(2 * case['rate_of_cpu'] >= least)}" if least else ""
            rows.append([what, f"{case['rows']:,} texts of 5 to 30 words", *figures, target])
    for engine in ("local", "ray"):
        if case := found.get(f"kills-{engine}"):
            figure = f"{case['same']} the same, byte for byte"
            target = f"all: {met(case['same'] == case['kills'])}"
            rows.append([f"SIGKILL, {engine}", f"{case['kills']} drivers and workers", figure, "", target])
    loads = sorted(case["load"] for case in found.values() if "load" in case) or [1.0]
    said = (
        "Two workers each. Other work shared the machine: on its two cores "
        f"{loads[0]:g} to {loads[-1]:g} processes ran or waited for one. So rates of texts are also given as two free "
        "cores have them, twice the rows per second of a core, and judged by that; what starts workers is left aside."
    )
    head = ["what", "of", "measured", "by the seconds of cores", "target"]
    return paragraphs(table(head, rows, left=2), said, machines(case["environment"] for case in found.values()))


_OF_TEXTS = (
    ("near", "`--duplicates --near 0.8`", 0),
    ("perplexity-ngrams", "`ngram_perplexity`", 20_000),
    ("perplexity-model", "`perplexity`, a model of 0.13 M weights on bytes", 20_000),
)
