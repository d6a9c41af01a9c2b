"""The plan of a comparison: methods, keeps and seeds, the runs that follow from them, and the checks without data.

Imports no torch, because the command line needs the names of the methods for its help.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

from datadiet import registry
from datadiet.config import AUTO, DEFAULTS, MOST_EPOCHS, OPTIONS, FinetuneConfig, config_from, migrated
from datadiet.diet.forecast import schedule_problems
from datadiet.diet.schedule import Schedule, parse_keep
from datadiet.errors import ArgumentError, Problems, UserError, quoted, unknown
from datadiet.registry import Method
from datadiet.store import run_folder

FULL, SHORT, RANDOM, COVER, DIET = "full", "short", "random", "cover", "diet"
BASELINES = (FULL, RANDOM, COVER, SHORT)
DRAWN = (RANDOM, COVER)  # baselines that keep as much as the methods they stand beside

# Published methods have no guard against wrong labels, which `hardest` has by default.
_HARDEST: dict[str, Any] = {"select": "hardest", "offset": 0.0}
_PRESETS = (
    Method(
        "preset",
        "diet",
        "the default of datadiet finetune: auto by el2n",
        preset={},
        evidence="methods",
    ),
    Method(
        "preset",
        "el2n_guarded",
        "hardest by el2n with the noise guard",
        preset={"score": "el2n", "select": "hardest", "offset": "auto"},
        evidence="methods",
    ),
    Method(
        "preset",
        "el2n_dropped",
        "hardest by el2n; the dropped examples are scored at each refresh",
        preset={"score": "el2n", **_HARDEST, "rescore": "dropped"},
    ),
    Method(
        "preset",
        "el2n_all",
        "hardest by el2n; every example is scored at each refresh",
        paper="Attendu and Corbeil 2023, arXiv 2306.03208",
        preset={"score": "el2n", **_HARDEST, "rescore": "all"},
    ),
    Method(
        "preset",
        "ucb",
        "hardest by the upper confidence bound of el2n: history ema",
        paper="Raju et al. 2021, arXiv 2111.12621",
        preset={"score": "el2n", **_HARDEST, "history": "ema"},
        evidence="methods",
    ),
    Method(
        "preset",
        "el2n_ema",
        "another name for ucb",
        preset={"score": "el2n", **_HARDEST, "history": "ema"},
        evidence="methods",
    ),
    Method(
        "preset",
        "longest",
        "the longest texts, chosen once",
        paper="Zhao et al. 2024, arXiv 2402.04833",
        preset={"score": "length", **_HARDEST, "static": True},
        evidence="methods",
    ),
    Method(
        "preset",
        "distilled",
        "random rows, with a loss that follows in part the run on everything",
        paper="Hinton et al. 2015, arXiv 1503.02531",
        preset={"select": "random", "teacher": FULL},
        evidence="methods",
    ),
    Method(
        "preset",
        "static_random",
        "random rows, chosen once, without a warm-up",
        preset={"select": "random", "static": True, "warmup_epochs": 0},
        evidence="methods",
    ),
    Method(
        "preset",
        "static_el2n",
        "hardest by el2n, chosen once after the warm-up",
        preset={"score": "el2n", **_HARDEST, "static": True},
    ),
)


def _family(method: Method) -> dict[str, Any]:
    """What the name of a score or selector stands for in a comparison, by what the method needs."""
    if method.kind == "in_batch":
        return {"score": "cross_entropy", "select": method.name}
    if method.kind == "race":
        return {"select": method.name, "score": "el2n"}
    if method.kind == "select":
        return {"select": method.name, **({"static": True} if "features" in method.needs else {"score": "el2n"})}
    once = {} if {"forward"} & set(method.traits) or "history" in method.needs else {"static": True}
    learned = {"scores_from": FULL} if {"model", "checkpoints"} & set(method.needs) and once else {}
    return {"score": method.name, **_HARDEST, **once, **learned}


@cache
def presets() -> dict[str, dict[str, Any]]:
    """The options of `datadiet finetune` that each name of `--methods` stands for.

    Examples:
        >>> presets()["ccs"]
        {'select': 'ccs', 'score': 'aum'}
    """
    named = [method for kind in ("score", *registry.SELECT_KINDS, "preset") for method in registry.methods(kind)]
    return {
        method.name: {**({} if method.kind == "preset" else _family(method)), **method.preset}
        for method in named
        if method.preset is not None
    }


OTHERS = "Any other combination is written out in YAML (--config), as mine: {score: aum, select: stratified}."
TOLERANCE = "tolerance"  # the method that `--tolerance` adds

# options that the comparison sets itself
OWN = ("output", "seed", "max_steps", "scores_from", "cache")
# options that belong to a method, not to the comparison: they are written out in YAML
METHOD_FIELDS = tuple(name for name, one in OPTIONS.items() if one.method)
# options of a method that may say `full`: the run on everything with the same seed
OF_A_RUN = ("teacher", "reference", "scores_from")
LEFT_OUT = ("keep", "tolerance", *OWN, *METHOD_FIELDS)


def compare_fields() -> list[str]:
    """The options of `datadiet finetune` that all runs of a comparison share."""
    return [name for name in OPTIONS if name not in LEFT_OUT]


def listed(text: str) -> list[str | float]:
    """A comma-separated flag as a list; numbers as numbers, `none` as nothing.

    Examples:
        >>> listed("0.5, 0.2"), listed("el2n,uncertain"), listed("none")
        ([0.5, 0.2], ['el2n', 'uncertain'], [])
    """
    if text.strip() == "none":
        return []
    return [_number(part.strip()) for part in text.split(",") if part.strip()]


def _number(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text


_SCHEDULE = ("warmup_epochs", "refresh_every", "anneal_epochs", "static", "epochs")
_REFRESHES = ("refresh_every", "static")
_BATCH = ("batch_size", "gradient_accumulation")


@dataclass(frozen=True)
class Cell:
    """One run of the grid.

    Attributes:
        method: `full`, `short`, or a method of the comparison.
        keep: As on the command line; None for `full`, and where a tolerance stands instead.
        seed: Of the run.
        steps_of: For `short`: the method whose steps it takes.
        tolerance: Of a method that finds its keep by itself, and of the `short` with its steps.
        waits: Whether the steps of `steps_of` are known only when it is done.
        after: The baseline whose run of the same seed it learns from: it has that run's costs on top of its own.
    """

    method: str
    keep: float | str | None
    seed: int
    steps_of: str | None = None
    tolerance: float | None = None
    after: str | None = None
    waits: bool = False

    @property
    def arm(self) -> str:
        """What the seeds of one figure have in common: the method with its keep."""
        share = self.keep if self.tolerance is None else self.tolerance
        return self.method if share is None else f"{self.method}-{str(share).replace(':', '~').replace(',', '+')}"

    @property
    def name(self) -> str:
        """Of its run folder."""
        return f"{self.arm}-seed{self.seed}"

    @property
    def follows(self) -> Cell | None:
        """The run that must be done first: one learns from it, or takes as many steps, which are not known before."""
        if self.after is not None:
            return Cell(self.after, None, self.seed)
        if self.steps_of is None or not self.waits:
            return None
        return Cell(self.steps_of, self.keep, self.seed, tolerance=self.tolerance)


@dataclass(frozen=True)
class Plan:
    """A comparison on one data set.

    Attributes:
        options: Of `datadiet finetune`, for every run; without `keep`, `seed` and `output`.
        methods: Options of each method, in the order of the tables.
        keeps: Shares kept, as on the command line.
        seeds: Of the runs; the same for every method.
        baselines: Which of `BASELINES` are run beside the methods.
        margin: Points by which a method may be worse than full and still be called not worse.
    """

    options: Mapping[str, Any]
    methods: Mapping[str, Mapping[str, Any]]
    keeps: Sequence[float | str]
    seeds: Sequence[int]
    baselines: Sequence[str] = BASELINES
    margin: float = 0.5

    def options_of(self, method: str) -> dict[str, Any]:
        """The options of a method's runs, defaults included where they matter here."""
        options = {**self.options, **({} if method in (FULL, SHORT) else self._named(method))}
        if options.get("static"):
            options.pop("refresh_every", None)  # of the comparison's cycles, and this method has none
        return options

    def keeps_of(self, method: str) -> Sequence[float | str]:
        """The keeps of a method: those of the plan, or its own; none with a tolerance."""
        if self.tolerance_of(method) is not None:
            return []
        own = self._named(method).get("keep")
        return self.keeps if own is None else [own]

    def tolerance_of(self, method: str) -> float | None:
        """The tolerance of a method that has one, and of the `short` with its steps."""
        tolerance: float | None = self._named(method.removeprefix(f"{SHORT}_")).get("tolerance")
        return tolerance

    def after(self, method: str) -> str | None:
        """The baseline that a method learns from, if there is one."""
        return FULL if FULL in [self._named(method).get(option) for option in OF_A_RUN] else None

    def _named(self, method: str) -> Mapping[str, Any]:
        return self.methods.get(method) or presets().get(method, {})

    def cells(self) -> list[Cell]:
        """Every run, seed by seed, so that a machine that drifts hits all methods alike."""
        return [cell for seed in self.seeds for cell in self._seed_cells(seed)]

    def _seed_cells(self, seed: int) -> list[Cell]:
        diets = [*self.methods, *(name for name in DRAWN if name in self.baselines and name not in self.methods)]
        cells = [Cell(FULL, None, seed)] if FULL in self.baselines else []
        for keep in dict.fromkeys(keep for method in diets for keep in self.keeps_of(method)):
            here = [method for method in diets if keep in self.keeps_of(method)]
            cells += [Cell(method, keep, seed, after=self.after(method)) for method in here]
            if SHORT not in self.baselines:
                continue
            racing = [method for method in here if self.races(method)]
            shorter = [
                method
                for method in here
                if not self._in_batch(method) and not self._only_beside(method) and method not in racing
            ]
            if shorter:
                found = self._shorts(shorter).items()
                cells += [Cell(name, keep, seed, steps_of=method, waits=self.open_end) for name, method in found]
            cells += [Cell(f"{SHORT}_{method}", keep, seed, steps_of=method, waits=True) for method in racing]
        for method in diets:
            if (tolerance := self.tolerance_of(method)) is not None:
                cells.append(Cell(method, None, seed, tolerance=tolerance, after=self.after(method)))
                if SHORT in self.baselines:
                    name = f"{SHORT}_{method}"
                    cells.append(Cell(name, None, seed, steps_of=method, tolerance=tolerance, waits=True))
        return cells

    def _shorts(self, methods: Sequence[str]) -> dict[str, str]:
        """A `short` for each different schedule: its name, and a method that has the schedule."""
        by_schedule: dict[tuple[Any, ...], str] = {}
        for method in methods:
            by_schedule.setdefault(self._schedule_key(method), method)
        usual, *others = by_schedule.values()
        return {SHORT: usual, **{f"{SHORT}_{method}": method for method in others}}

    def _schedule_key(self, method: str) -> tuple[Any, ...]:
        """The options that decide the steps of a method; while `keep` is constant, the refreshes do not."""
        constant = not any(isinstance(parse_keep(keep), dict) for keep in self.keeps)
        excluded = _REFRESHES if constant else ()
        key = tuple(value for name, value in self._schedule_options(method).items() if name not in excluded)
        return (*key, method) if self.open_end else key  # each ends at an epoch of its own

    def _schedule_options(self, method: str) -> dict[str, Any]:
        options = self.options_of(method)
        return {name: options.get(name, DEFAULTS[name]) for name in (*_SCHEDULE, *_BATCH)}

    @property
    def open_end(self) -> bool:
        """Whether every run finds its number of epochs itself."""
        return self.options.get("epochs") == AUTO

    def _only_beside(self, method: str) -> bool:
        """Whether a method has no `short` of its own: random rows beside methods that end at epochs of their own."""
        return self.open_end and method in DRAWN and method not in self.methods

    def _in_batch(self, method: str) -> bool:
        """Whether a method takes all the steps of full training, with smaller batches: no `short` has as many."""
        return self.options_of(method).get("select") in registry.names("in_batch")

    def races(self, method: str) -> bool:
        """Whether a method decides by races what it trains on: its `short` also has the steps that those cost."""
        if self.tolerance_of(method) is not None or method in (FULL, SHORT):
            return False
        select = str(self.options_of(method).get("select", DEFAULTS["select"]))
        return select.partition("(")[0] in registry.names("race")

    def short_of(self, method: str, keep: float | str | None) -> str | None:
        """The name of the `short` that has as many steps as a method; None where there is none."""
        if self._in_batch(method):
            return None
        if self.tolerance_of(method) is not None or self.races(method):
            return f"{SHORT}_{method}" if SHORT in self.baselines else None
        key = self._schedule_key(method)
        for cell in self._seed_cells(self.seeds[0]):
            steps_of = str(cell.steps_of)
            is_short = cell.steps_of is not None and cell.tolerance is None and cell.keep == keep
            if is_short and not self.races(steps_of) and self._schedule_key(steps_of) == key:
                return cell.method
        return None

    def config(
        self,
        cell: Cell,
        output: str,
        rows: int | None = None,
        *,
        steps: int | None = None,
        cache: str | None = None,
    ) -> FinetuneConfig:
        """The options of one run.

        Args:
            cell: Of this plan.
            output: Its run folder.
            rows: Training rows of the data, which the steps of `short` follow from.
            steps: Optimizer steps of the run that this one follows, where there is one.
            cache: Of tokenised data.

        Raises:
            ArgumentError: If an option is wrong.
        """
        settings = {**self.options_of(cell.method), "seed": cell.seed, "output": output, "cache": cache}
        if cell.after is not None:
            source = str(Path(output).parent / Cell(cell.after, None, cell.seed).name)
            settings |= {option: source for option in OF_A_RUN if settings.get(option) == cell.after}
        if cell.method == FULL and any(options.get("scores_from") == FULL for options in self.methods.values()):
            settings |= {"keep_checkpoints": True, "checkpoint_every": settings.get("checkpoint_every", 1) or 1}
        if cell.waits:
            if steps is None:
                raise ValueError("this short needs the steps of the run that it follows")
            most = {"epochs": MOST_EPOCHS} if self.open_end else {}
            if rows is not None and not self.open_end:  # races may bring a large keep above everything
                steps = min(steps, self._schedule(replace(cell, keep=None), rows).total_steps)
            return config_from({**on_everything(settings), **most, "max_steps": steps})
        if cell.tolerance is not None:
            return config_from(settings)
        if cell.keep is None:
            return config_from(on_everything(settings))
        if cell.steps_of is None:
            return config_from({**settings, "keep": cell.keep})
        if rows is None:
            raise ValueError("the steps of short need the number of training rows")
        return config_from({**on_everything(settings), "max_steps": self._schedule(cell, rows).total_steps})

    def _schedule(self, cell: Cell, rows: int) -> Schedule:
        options = self._schedule_options(str(cell.steps_of))
        given = {name: value for name, value in options.items() if value is not None}  # None: the schedule's default
        batch = given.pop("batch_size") * given.pop("gradient_accumulation")
        return Schedule(num_examples=rows, keep=parse_keep(cell.keep or 1.0), batch=batch, **given)


def on_everything(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a run that keeps everything: it has no last epochs on everything of its own.

    Examples:
        >>> on_everything({"epochs": 5, "anneal_epochs": 1})
        {'epochs': 5, 'keep': 1.0}
    """
    return {**{name: value for name, value in settings.items() if name != "anneal_epochs"}, "keep": 1.0}


def methods_from(names: Sequence[str | Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """The options of each method: of a preset, or written out.

    Args:
        names: Names of presets, or mappings of a name to options, as a YAML file has them.

    Raises:
        ArgumentError: For every name that is no preset, every method written out that is no mapping, and presets that
            are the same method under two names.

    Examples:
        >>> methods_from(["uncertain", {"mine": {"score": "entropy", "select": "epsilon"}}])["mine"]
        {'score': 'entropy', 'select': 'epsilon'}
    """
    problems = Problems()
    methods = methods_read(names, problems)
    problems.raise_any()
    return methods


def methods_read(
    names: Sequence[str | Mapping[str, Mapping[str, Any]]], problems: Problems
) -> dict[str, dict[str, Any]]:
    """The methods that exist; the others are added to the problems."""
    methods: dict[str, dict[str, Any]] = {}
    for entry in names:
        written = entry if isinstance(entry, Mapping) else {entry: presets().get(str(entry))}
        for name, options in written.items():
            if options is None and name not in presets():
                problems.add(f"{unknown('method', name, presets())} {OTHERS}")
            elif not isinstance(options, Mapping):
                problems.add(f"the method {quoted(name)} must be a mapping of options, got {quoted(options)}.")
            elif name in methods:
                problems.add(f"the method {quoted(name)} is named twice.")
            else:
                methods[str(name)] = migrated(options)
    named = [str(entry) for entry in names if not isinstance(entry, Mapping) and str(entry) in presets()]
    for one, two in combinations(dict.fromkeys(named), 2):
        problems.check(
            {**DEFAULTS, **presets()[one]} != {**DEFAULTS, **presets()[two]},
            f"{quoted(one)} and {quoted(two)} are the same method under two names: give one of them.",
        )
    return methods


def check_plan(plan: Plan, *, metric: Any = None) -> None:
    """Refuse a plan that no run could carry out, before any starts.

    Args:
        plan: Of the comparison.
        metric: Of the verdicts; None for the task's main one.

    Raises:
        ArgumentError: All problems at once.
    """
    problems = Problems()
    for name in OWN:
        problems.check(name not in plan.options, f"{name} is set by the comparison itself: leave it out.")
    problems.check(bool(plan.methods), f"no method is compared. Allowed: {', '.join(presets())}. {OTHERS}")
    for name, options in plan.methods.items():
        problems.check(
            name not in (FULL, SHORT), f"{name} is a baseline that is always run: leave it out of the methods."
        )
        for option in options:
            allowed_here = option in DEFAULTS and (option not in OWN or option in OF_A_RUN)
            problems.check(allowed_here, unknown(f"option of {name}", option, DEFAULTS))
        problems.check(
            options.get("epochs") != AUTO,
            f"epochs of {name} must be a number, got {AUTO}. It is for the whole comparison: --epochs {AUTO}.",
        )
        problems.check(
            plan.after(name) is None or FULL in plan.baselines,
            f"{name} learns from the run on everything: leave {FULL} among the baselines.",
        )
    for name in plan.baselines:
        problems.choice("baseline", name, BASELINES)
    problems.check(len(plan.seeds) > 0, "seeds must be at least 1.")
    problems.check(len(set(plan.seeds)) == len(plan.seeds), "a seed is named twice.")
    problems.check(plan.margin > 0, f"margin must be above 0 points, got {plan.margin}.")
    for keep in plan.keeps:
        _check_keep(keep, problems)
    allowed = run_folder.task_metrics(str(plan.options.get("task")))
    if metric is not None and allowed:
        problems.choice("metric", metric, allowed)
    problems.found += _arm_problems(plan)
    problems.raise_any()


def _check_keep(keep: Any, problems: Problems) -> None:
    if isinstance(keep, bool) or not isinstance(keep, (int, float, str)):
        problems.add(f"keep must be a share such as 0.5, or steps such as 1:0.7,4:0.5; got {quoted(keep)}.")
        return
    try:
        share = parse_keep(keep)
    except ArgumentError as error:
        problems.include(error)
        return
    if isinstance(share, (int, float)):
        problems.share("keep", share)
        problems.check(share != 1, "keep 1 is full data, which is always run: leave it out.")


def _arm_problems(plan: Plan) -> list[str]:
    """Options of a wrong type and impossible schedules, of every arm."""
    arms = dict(_arms(plan))
    problems: dict[str, list[str]] = {}
    for arm, settings in arms.items():
        try:
            problems[arm] = schedule_problems(config_from({**_CHECKED_ELSEWHERE, **settings}))
        except UserError as error:
            problems[arm] = list(error.problems)
    return merged_problems(problems, list(arms))


_CHECKED_ELSEWHERE = {"data": "", "task": "", "output": ""}


def _arms(plan: Plan) -> Iterator[tuple[str, dict[str, Any]]]:
    """The options of each arm that is no `short`, by its name; unknown options are left out."""

    def options(method: str, **more: Any) -> dict[str, Any]:
        return {name: value for name, value in (plan.options_of(method) | more).items() if name in DEFAULTS}

    if FULL in plan.baselines:
        yield FULL, on_everything(options(FULL))
    for method in [*plan.methods, *(name for name in DRAWN if name in plan.baselines)]:
        if (points := plan.tolerance_of(method)) is not None:
            yield Cell(method, None, 0, tolerance=points).arm, options(method)
        for keep in plan.keeps_of(method):
            if isinstance(keep, (int, float, str)):
                yield Cell(method, keep, 0).arm, options(method, keep=keep)


def merged_problems(problems: Mapping[str, list[str]], arms: Sequence[str]) -> list[str]:
    """One sentence for each problem: with the arms that have it, or without arms where every run has it.

    Args:
        problems: By arm.
        arms: All of them. A problem of `full`, which has no options of its own, is one of every run.

    Examples:
        >>> problems = {"full": ["no data."], "a-0.5": ["no data.", "x."], "b-0.5": ["x."]}
        >>> merged_problems(problems, ["full", "a-0.5", "b-0.5", "c-0.5"])
        ['no data.', 'a-0.5, b-0.5: x.']
    """
    arms_by_problem: dict[str, list[str]] = {}
    for arm, sentences in problems.items():
        for sentence in dict.fromkeys(sentences):
            arms_by_problem.setdefault(sentence, []).append(arm)
    diets = len([arm for arm in arms if arm != FULL])
    return [
        problem if FULL in names or len(names) == diets > 1 else f"{', '.join(names)}: {problem}"
        for problem, names in arms_by_problem.items()
    ]
