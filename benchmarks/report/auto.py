"""Tables of the grid `benchmarks.auto`: rules side by side, the races of one setting, and what the races cost."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Collection, Mapping
from pathlib import Path

from scipy import stats

from benchmarks.auto import ARMS, FOLDERS, LATER, SETTINGS
from benchmarks.report.markdown import METRIC_NAMES, NOT_YET, machines, paragraphs, percent, plus_minus, table
from benchmarks.report.numbers import Run, Spread, paired, spread, verdict

Arms = Mapping[str, Mapping[int, Run]]
UNSEEN_KEEP = 0.3
FIXED = [arm for arm in ARMS if arm not in ("short", "auto", "full")]
METRIC_NAMES_HERE = {**METRIC_NAMES, "span_f1": "span F1"}


def pairs(results: Path) -> str:
    """`auto` that chose `cover` throughout less `short` with as many steps, seed by seed."""
    found: dict[str, dict[int, Run]] = {"auto": {}, "short": {}}
    for path in sorted((results / "auto_pairs").glob("*.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        found[run["cell"]["arm"]][run["cell"]["seed"]] = run
    difference = paired(found["auto"], found["short"], "accuracy")
    if difference is None:
        return NOT_YET
    rules_of = {run["race"]["rule"] for run in found["auto"].values()}
    means = [plus_minus(_metric(found[arm], "accuracy")) for arm in ("auto", "short")]
    row = [
        str(difference.count),
        ", ".join(sorted(rules_of)),
        *means,
        f"{difference.mean:+.2f} ({interval(difference)})",
    ]
    return table(["seeds", "rule", "`auto`", "`short`", "difference (95 % interval)"], [row], left=2)


def grid(
    results: Path, folder: str = FOLDERS[0], settings: Collection[str] = SETTINGS
) -> dict[tuple[str, float], dict[str, dict[int, Run]]]:
    """The runs of some settings by setting and keep, then by arm, then by seed."""
    found: dict[tuple[str, float], dict[str, dict[int, Run]]] = {}
    for path in sorted((results / folder).glob("*.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        cell = run["cell"]
        if cell["setting"] in settings:
            found.setdefault((cell["setting"], cell["keep"]), {}).setdefault(cell["arm"], {})[cell["seed"]] = run
    return found


def interval(difference: Spread) -> str:
    """The 95 % interval of a mean, by Student's t over the seeds; nothing for one seed."""
    if difference.deviation is None:
        return ""
    half = stats.t.ppf(0.975, difference.count - 1) * difference.deviation / math.sqrt(difference.count)
    return f"{difference.mean - half:+.2f} to {difference.mean + half:+.2f}"


def _with_interval(difference: Spread) -> str:
    bounds = interval(difference)
    return f"{difference.mean:+.2f} ({bounds})" if bounds else f"{difference.mean:+.2f}"


def large(results: Path) -> str:
    """The same as `rules` where there are rows enough for races."""
    return rules(results, FOLDERS[1], {**SETTINGS, **LATER})


def later(results: Path) -> str:
    """The same of the settings that the first rule was tried on."""
    return rules(results, settings=LATER)


def rules(results: Path, folder: str = FOLDERS[0], settings: Collection[str] = SETTINGS) -> str:
    """Every rule on every setting and keep; `auto` and `guarded` less `short`, with their intervals."""
    cells = grid(results, folder, settings)
    if not cells:
        return NOT_YET
    order = list(settings)
    arms = [arm for arm in ARMS if any(arm in found for found in cells.values())]
    judged = [arm for arm in ("auto", "guarded") if arm in arms]
    rows = []
    for setting, share in sorted(cells, key=lambda key: (-key[1], order.index(key[0]))):
        found = cells[setting, share]
        metric = next(iter(next(iter(found.values())).values()))["metric"]
        means = [plus_minus(_metric(found.get(arm, {}), metric)) for arm in arms]
        gains = [paired(found.get(arm, {}), found.get("short", {}), metric) for arm in judged]
        said = ["-" if gain is None else f"{_with_interval(gain)} {verdict(gain)}" for gain in gains]
        rows.append([setting, f"{share:g}", METRIC_NAMES_HERE[metric], *means, *said])
    head = ["setting", "keep", "metric", *arms, *(f"`{arm}` - `short` (95 % interval)" for arm in judged)]
    seeds = sorted({len(runs) for found in cells.values() for runs in found.values()})
    runs = [run for found in cells.values() for each in found.values() for run in each.values()]
    note = (
        f"Test split, mean ± sample standard deviation over {' or '.join(map(str, seeds))} seed"
        f"{'' if seeds == [1] else 's'}, paired by seed. "
        f"{machines(run['environment'] for run in runs)}"
    )
    return paragraphs(table(head, rows, left=3), note)


def unseen(results: Path) -> str:
    """For each setting the rule that is best on all others, beside `auto`: gains over `short` in the same seeds."""
    cells = {setting: found for (setting, share), found in grid(results).items() if share == UNSEEN_KEEP}
    arms = ["short", "auto", *(arm for arm in FIXED if cells and all(arm in found for found in cells.values()))]
    gains: dict[str, dict[str, float]] = {}
    counts = set()
    for setting, found in cells.items():
        if not all(arm in found for arm in arms):
            continue
        seeds = set.intersection(*(set(found[arm]) for arm in arms))
        metric = next(iter(found["short"].values()))["metric"]
        here = {arm: paired({seed: found[arm][seed] for seed in seeds}, found["short"], metric) for arm in arms[1:]}
        if all(here.values()):
            gains[setting] = {arm: gain.mean for arm, gain in here.items() if gain is not None}
            counts.add(len(seeds))
    if len(gains) < 2 or len(arms) < 3:
        return NOT_YET
    rows, sums = [], [0.0, 0.0, 0.0]
    for setting in (name for name in SETTINGS if name in gains):
        others = [here for name, here in gains.items() if name != setting]
        chosen = max(arms[2:], key=lambda arm: sum(here[arm] for here in others))
        best = max(arms[2:], key=gains[setting].__getitem__)
        figures = [gains[setting][arm] for arm in (chosen, "auto", best)]
        sums = [total + figure for total, figure in zip(sums, figures, strict=True)]
        shown = [f"{figure:+.2f}" for figure in figures]
        rows.append([setting, f"`{chosen}`", shown[0], shown[1], f"`{best}` {shown[2]}"])
    rows.append(["mean", "", *(f"{total / len(gains):+.2f}" for total in sums)])
    head = ["setting", "best rule elsewhere", "its gain here", "gain of `auto`", "best rule here, in hindsight"]
    seeds_of_all = " or ".join(map(str, sorted(counts)))
    return paragraphs(table(head, rows, left=2), f"Means over {seeds_of_all} seed{'' if counts == {1} else 's'}.")


def _metric(runs: Mapping[int, Run], name: str) -> Spread | None:
    return spread(100 * float(run["metrics"]["test"][name]) for run in runs.values())


def races(results: Path) -> str:
    """Every race of `auto`: the entrants, the difference of the dev loss, what was chosen."""
    rows = []
    for (setting, share), found in sorted(grid(results, FOLDERS[1]).items()):
        for seed, run in sorted(found.get("auto", {}).items()):
            for race in run["race"]["races"]:
                low, high = race["interval"]
                rows.append([
                    setting, f"{share:g}", str(seed), str(race["epoch"] + 1),
                    f"{race['challenger']} - {race['champion']}", str(race["steps"]), str(race["dev_rows"]),
                    f"{race['difference']:+.3f} ({low:+.3f} to {high:+.3f})", race["winner"],
                ])  # fmt: skip
    if not rows:
        return NOT_YET
    head = ["setting", "keep", "seed", "before epoch", "dev loss of", "steps", "dev rows", "difference", "goes on"]
    return table(head, rows, left=2)


def costs(results: Path) -> str:
    """What the races cost, as a share of the time of fine-tuning."""
    shares: dict[float, list[float]] = {}
    for (_, keep), found in grid(results, FOLDERS[1]).items():
        for run in found.get("auto", {}).values():
            if run["race"]["races"]:
                shares.setdefault(keep, []).append(run["cost"]["probe_s"] / run["cost"]["finetune_s"])
    if not shares:
        return NOT_YET
    rows = [
        [f"{keep:g}", str(len(found)), percent(statistics.median(found)), percent(max(found))]
        for keep, found in sorted(shares.items(), reverse=True)
    ]
    return table(["keep", "runs", "median share of finetune_s", "largest"], rows)
