"""The options of a diet and of a fine-tuning run: each declared once, with its help, panel, bounds and tasks.

Everything else is read off these fields: the flags of the command line, YAML files, checks, docs/cli.md, what a
comparison shares.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Self, Union, get_args, get_origin, get_type_hints

import yaml

from datadiet.errors import ArgumentError, DataError, Problems, cut, quoted, unknown
from datadiet.files import GZ_LIMIT, read_bytes
from datadiet.registry import (
    AtLeast,
    Bound,
    NotNegative,
    Positive,
    ShareBelowOne,
    UnitShare,
    find,
    format_call,
    lacks,
    names,
    parse_options,
)

DATA, DIET, TRAINING, RUN = "Data", "Diet", "Training", "Run"
PANELS = (DATA, DIET, TRAINING, RUN)
DATA_HELP = "A folder, a saved datasets folder, a hub name such as glue/sst2, or snips (packaged)."
# those of transformers that need no options of their own
LR_SCHEDULES = (
    "linear",
    "cosine",
    "cosine_with_restarts",
    "constant",
    "constant_with_warmup",
    "polynomial",
    "inverse_sqrt",
)
Rescore = Literal["all", "dropped", "none"]
AUTO = "auto"
MOST_EPOCHS = 20  # that `epochs="auto"` plans
USUAL_LENGTH = 128  # tokens per example


class Declared(NamedTuple):
    """What an option says of itself.

    Attributes:
        help: One line for the command line and the docs.
        panel: One of `PANELS`; None for an option of the Python API alone.
        bound: Of numbers.
        choices: The only values allowed; a callable is asked when it is needed.
        method: Whether it belongs to a method of a comparison, not to the comparison.
        tasks: A trait that the task must have for the option to have an effect; a key of `registry.TASK_TRAITS`.
        word: What may stand in the place of a number.
        usual: Whether `datadiet finetune --help` shows it; `--help-all` shows all.
    """

    help: str
    panel: str | None
    bound: Bound | None = None
    choices: tuple[str, ...] | Callable[[], tuple[str, ...]] = ()
    method: bool = False
    tasks: str = ""
    word: str = ""
    usual: bool = False


def option(default: Any, help: str, panel: str | None, **more: Any) -> Any:
    """A field of a config; see `Declared`."""
    return field(default=default, metadata={"option": Declared(help, panel, **more)})


def _tasks() -> tuple[str, ...]:
    return names("task")


@dataclass(frozen=True, kw_only=True)
class DietConfig:
    """The options of a diet, the same on every data set; `datadiet.Diet` takes them as keywords.

    A method is a name, or a name with options: `"ccs(beta=0.2)"`; in Python also a function.

    Attributes:
        keep: Share kept, in (0, 1]; or a step-down such as `"1:0.7,4:0.5"` or `{1: 0.7, 4: 0.5}` (from epoch 1, from
            epoch 4), in force from the first refresh at that epoch.
        tolerance: Instead of `keep`: points of the main dev metric that may be lost. How many rows each cycle trains on
            follows from the scores, with the dev metric as a guard (`datadiet.diet.tolerance`).
        score: How hard an example is; a function is `(logits, labels, *, mask=None) -> values`.
        combine: How the positions and heads of joint tasks become one value: `norm`, `mean` or `sum`. By default
            `norm` as in the paper; `mean` for `uncertain`, which needs bounded values, for `quadrants`, which compares
            with mean entropies, and, on the command line, for language models, whose long answers are not hard for
            their length alone.
        select: Which examples are kept; a function is `(values, count, *, seed, epoch, groups=None) -> Selection`. By
            default `auto`: the classes, short races and the metric of the dev split decide between `cover`, which is
            training on everything for as many steps, and rules that prefer hard examples (`datadiet.diet.race`). With a
            tolerance, `hardest`.
        offset: Share of the very hardest that is excluded as suspected noise (`hardest`, `window`); or `auto`: the rows
            whose labels, or tags, contradict a confident model (`datadiet.noise.guard`), with any selector. By default
            `auto` for `hardest` where each example has one class, and for the class only; else 0. `offset=0.0` is the
            published rule.
        floor: Least number of examples kept of each class; a class that has fewer is refused.
        history: How the values of several rounds become one: `last`, `mean(window=3)`, `ema(alpha=0.8, c=1)`.
        tokens: A rule by which a part of the tokens of each answer trains after the warm-up, for causal language models
            (`datadiet.selectors.token_rules`); by default all do.
        warmup_epochs: Epochs on everything first; with 0 the first cycle is random.
        refresh_every: Epochs from one selection to the next: by default 1 with `auto`, `cover`, `visits` or a
            tolerance, else 2.
        anneal_epochs: Last epochs on everything.
        static: Choose once, after the warm-up.
        rescore: Which examples get a forward pass of their own at a refresh. `none`: no pass; values come from the
            training forward (dropout on), corrected for age (`datadiet.diet.values`), and an example never seen is
            taken first. `dropped`: those that did not train since the last refresh. `all`: every example, as in the
            paper.
        scores_from: A run folder whose last scores start this run, matched by id; or a file of `datadiet score`.
        seed: Of ties, random choices and the order of examples; of a run also of new weights.
    """

    keep: float | str | Mapping[int, float] = option(
        0.5, "Share kept, in (0, 1]; or stepping down, epochs counted from 0: 1:0.7,4:0.5.", DIET, usual=True
    )
    tolerance: float | None = option(
        None, "Instead of --keep: points of the dev metric that may be lost; finds the share itself.", DIET, usual=True
    )
    score: str | Callable[..., Any] = option(
        "el2n",
        'How hard an example is: el2n, margin, aum, "prototypes(clusters=500)", ...; see datadiet methods.',
        DIET,
        usual=True,
        method=True,
    )
    combine: str | None = option(
        None,
        "How words, or intent and slots, become one score: norm, mean, sum.",
        DIET,
        choices=lambda: names("combine"),
        method=True,
        tasks="heads",
    )
    select: str | Callable[..., Any] = option(
        "auto",
        'Which are kept: auto, cover, hardest, uncertain, "ccs(beta=0.2)", ...; see datadiet methods.',
        DIET,
        usual=True,
        method=True,
    )
    offset: float | str | None = option(
        None,
        "Share of the hardest excluded as noise; auto, the default of auto and hardest, finds wrong labels.",
        DIET,
        method=True,
    )
    floor: int = option(
        0, "Keep at least so many examples of each class; 0 = no floor.", DIET, bound=AtLeast(0), tasks="groups"
    )
    history: str | Any = option(
        "last", 'How values of several rounds become one: last, mean, "ema(alpha=0.8, c=1)".', DIET, method=True
    )
    tokens: str | None = option(
        None,
        'Which tokens of the answers train, after the warm-up: "q_tuning(keep=0.5)", "excess(keep=0.6)", ...',
        DIET,
        method=True,
        tasks="answers",
    )
    warmup_epochs: int = option(
        1, "Epochs on everything at the start; 0 = the first cycle is random.", DIET, bound=AtLeast(0)
    )
    refresh_every: int | None = option(None, "Epochs between two choices of what is kept.", DIET, bound=AtLeast(1))
    anneal_epochs: int = option(0, "Epochs on everything at the end.", DIET, bound=AtLeast(0))
    static: bool = option(False, "Choose once, after the warm-up.", DIET, method=True)
    rescore: str = option(
        "none",
        "Extra forward passes at a refresh: all, dropped, or none.",
        DIET,
        choices=lambda: names("rescore"),
        method=True,
    )
    scores_from: str | os.PathLike[str] | None = option(
        None, "A run folder whose last scores start this run, matched by id; or a file of datadiet score.", DIET
    )
    seed: int = option(
        0, "Of new weights, the order of examples and the diet.", RUN, bound=Bound(0, 2**32 - 1, whole=True), usual=True
    )

    def __new__(cls, *_args: Any, **options: Any) -> Self:
        """Refuse options that moved into the brackets of their method, with the new form."""
        problems = Problems()
        for name in MOVED.keys() & options.keys():
            problems.add(f"{name} is written with the method it belongs to now: {moved_hint(name, options[name])}.")
        problems.raise_any()
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for item in fields(self):
            if isinstance(value := getattr(self, item.name), os.PathLike):
                object.__setattr__(self, item.name, os.fspath(value))  # YAML and JSON hold text


@dataclass(frozen=True)
class FinetuneConfig(DietConfig):
    """The options of `datadiet finetune`; the flags have the same names with dashes. Paths may be `Path` objects.

    Attributes:
        data: A folder, a saved `datasets` folder, a hub name (`glue/sst2`), or `snips`, which is packaged.
        task: A name of `datadiet methods`, kind task.
        model: A hub name, a local folder, or `minilm`, which is packaged.
        output: The run folder.
        epochs: Times through the data, or what is kept of it; or `auto`: until the dev metric has stopped rising
            (`datadiet.diet.tolerance.stopped_rising`), at most `MOST_EPOCHS`. The best weights are then tested and
            saved.
        learning_rate: Peak of AdamW; or `auto`: by the number of weights that train
            (`datadiet.training.arguments.auto_learning_rate`).
        max_steps: Stop after so many optimizer steps, with the LR schedule planned for them (only with `keep` 1).
        data_seed: Of the shares of the data that are set apart or taken, so that runs with several seeds see the same
            data.
        early_stopping: Stop after so many epochs without a better dev metric; 0 never stops. The best weights are
            then the ones that are tested and saved.
        precision: `auto` (bf16 autocast where the device is fast at it), `fp32`, `bf16`, `fp16`.
        teacher: A saved model or run folder of the same classes: a part of the loss follows that model's
            probabilities, the more the less is kept.
        reference: A causal language model with the same tokenizer, for a rule of `tokens` that needs one: it reads the
            training rows once, before the first step.
        dedupe_weights: With `dedupe`: a kept row counts in the loss as often as its text occurred; see
            `datadiet.diet.choose.weighed` for the scale.
        cache: A folder that keeps tokenised data, teacher logits and losses of a reference for other runs on the same
            data. A run that reuses an entry is still charged the time that it took to build.
        ...: Those of `DietConfig`; `datadiet finetune --help` has a line for each.
    """

    data: str
    task: str = field(metadata={"option": Declared("What is predicted. Required.", DATA, choices=_tasks, usual=True)})
    output: str = field(
        metadata={"option": Declared("The run folder; must not hold another run. Required.", RUN, usual=True)}
    )
    train_rows: int | None = option(None, "Take a fixed random share of so many training rows.", DATA, bound=AtLeast(1))
    dev_share: float = option(
        0.1, "Share of train set apart where there is no dev split.", DATA, bound=Bound(0, 1, True, True)
    )
    drop_overlap: bool = option(False, "Drop training rows whose text is also in dev or test.", DATA)
    dedupe: bool = option(
        False, "Keep one of the training rows that have the same text, with the label most of them have.", DATA
    )
    dedupe_weights: bool = option(
        False, "With --dedupe: let a kept row count in the loss as often as its text occurred.", DATA
    )
    text_column: str | None = option(None, "Column with the text; usual names are found without this.", DATA)
    text_pair_column: str | None = option(None, "Column with the second text.", DATA)
    label_column: str | None = option(None, "Column with the label or labels.", DATA)
    label_separator: str = option(
        "|", "Between the labels of a text (multi-label): | , or ;.", DATA, choices=("|", ",", ";"), tasks="label_sets"
    )
    tokens_column: str | None = option(None, "Column with the tokens.", DATA)
    slots_column: str | None = option(None, "Column with the slots or tags.", DATA)
    intent_column: str | None = option(None, "Column with the intent.", DATA)
    id_column: str | None = option(None, "Column with your own ids.", DATA)
    messages_column: str | None = option(None, "Column with conversations (causal-lm).", DATA)
    prompt_column: str | None = option(None, "Column with prompts (causal-lm).", DATA)
    answer_column: str | None = option(None, "Column with the answers to the prompts (causal-lm).", DATA)
    context_column: str | None = option(None, "Column with what a prompt is about (causal-lm).", DATA)
    system_column: str | None = option(None, "Column with a message before the prompt (causal-lm).", DATA)
    gz_limit: float = option(GZ_LIMIT, "Largest size in GB that a .gz file may unpack to.", DATA, bound=Positive)
    model: str = option(
        "minilm", "A hub name, a local folder, or minilm (packaged with datadiet[demo]).", TRAINING, usual=True
    )
    epochs: int | str = option(
        5,
        "Times through the data, or what is kept of it; auto stops where the dev metric stops rising.",
        TRAINING,
        bound=AtLeast(1),
        word=AUTO,
        usual=True,
    )
    max_steps: int | None = option(
        None, "Stop after so many steps, the LR planned for them (only with --keep 1).", TRAINING, bound=AtLeast(1)
    )
    batch_size: int = option(32, "Examples per device and batch.", TRAINING, bound=AtLeast(1), usual=True)
    gradient_accumulation: int = option(1, "Batches per optimizer step.", TRAINING, bound=AtLeast(1))
    learning_rate: float | str = option(
        AUTO,
        "Peak learning rate of AdamW; auto: by the number of weights.",
        TRAINING,
        bound=Positive,
        word=AUTO,
        usual=True,
    )
    lr_schedule: str = option(
        "linear",
        "linear, cosine, constant, polynomial, inverse_sqrt, ... (an error names all).",
        TRAINING,
        choices=LR_SCHEDULES,
    )
    lr_warmup: float = option(
        0.06, "Share of the steps over which the learning rate rises.", TRAINING, bound=ShareBelowOne
    )
    weight_decay: float = option(0.01, "Weight decay of AdamW.", TRAINING, bound=NotNegative)
    max_grad_norm: float = option(1.0, "Largest gradient norm; 0 = no clipping.", TRAINING, bound=NotNegative)
    # with less, the special tokens alone would be left
    max_length: int | None = option(
        None,
        f"Tokens per example; longer ones are cut. By default {USUAL_LENGTH}, or what the task says (causal-lm 1024).",
        TRAINING,
        bound=AtLeast(3),
        usual=True,
    )
    label_smoothing: float = option(
        0.0, "Share of the label spread over all classes.", TRAINING, bound=ShareBelowOne, tasks="classes"
    )
    class_weights: str | None = option(
        None,
        "balanced: weigh each class by the inverse of its frequency.",
        TRAINING,
        choices=("balanced",),
        tasks="classes",
    )
    alpha: float = option(
        0.5,
        "Weight of the intent loss in joint tasks; the slots have the rest.",
        TRAINING,
        bound=UnitShare,
        tasks="joint",
    )
    gradient_checkpointing: bool = option(False, "Less memory for more time.", TRAINING)
    torch_compile: bool = option(False, "Compile the model.", TRAINING)
    lora: int = option(
        0, "Rank of a LoRA adapter; 0 = train all weights (needs datadiet[peft]).", TRAINING, bound=AtLeast(0)
    )
    early_stopping: int = option(
        0, "Stop after so many epochs without a better dev metric; 0 = never.", TRAINING, bound=AtLeast(0)
    )
    teacher: str | None = option(
        None,
        "A saved model or run folder that the loss follows in part: distillation.",
        TRAINING,
        method=True,
        tasks="classes",
    )
    teacher_temperature: float = option(
        2.0, "Softens the probabilities of the teacher and the model.", TRAINING, bound=Positive, method=True
    )
    reference: str | None = option(
        None,
        "A language model, by name, folder or run folder, whose losses --tokens excess compares with.",
        TRAINING,
        method=True,
        tasks="answers",
    )
    precision: str = option("auto", "auto (bf16 where the device is fast at it), fp32, bf16, fp16.", TRAINING)
    data_seed: int = option(0, "Of the shares of the data that are set apart or taken.", RUN, bound=AtLeast(0))
    report_to: str = option(
        "none", "none, or a tracker that is installed: tensorboard, wandb, trackio (pip install tensorboard).", RUN
    )
    checkpoint_every: int = option(1, "Epochs between two checkpoints to resume from; 0 = none.", RUN, bound=AtLeast(0))
    keep_checkpoints: bool = option(False, "Keep the checkpoints of a finished run.", RUN)
    cache: str | None = option(
        None, "A folder that keeps tokens and what other models said for other runs; the time is charged to each.", RUN
    )
    energy: bool = option(False, "Measure the energy of the run (needs datadiet[energy]).", RUN)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_length is None:  # so that a run's file says what it was
            object.__setattr__(self, "max_length", usual_length(self.task))

    @property
    def length(self) -> int:
        """The most tokens of an example."""
        return self.max_length or usual_length(self.task)

    @property
    def planned_epochs(self) -> int:
        """The number of epochs; the most there can be with `auto`."""
        return MOST_EPOCHS if isinstance(self.epochs, str) else self.epochs

    @property
    def tests_best(self) -> bool:
        """Whether the weights of the best epoch are tested, and not those of the last."""
        return self.epochs == AUTO or self.early_stopping > 0

    def to_yaml(self) -> str:
        """The file that runs it again: `datadiet finetune --config FILE`."""
        values = asdict(self)
        first = ("data", "task", "model", "output")
        ordered = {name: values[name] for name in (*first, *(name for name in OPTIONS if name not in first))}
        return yaml.safe_dump(ordered, sort_keys=False, allow_unicode=True)


@cache
def declared(config: type = FinetuneConfig) -> Mapping[str, Declared]:
    """The options of a config by name, panel by panel, each panel in the order of the source."""
    own = {item.name: item.metadata["option"] for item in _fields(config) if "option" in item.metadata}
    panels = dict.fromkeys((*PANELS, *(one.panel for one in own.values() if one.panel)))
    return {name: one for panel in panels for name, one in own.items() if one.panel == panel}


def _fields(config: type) -> Iterator[Field[Any]]:
    """Those of the config itself before those that it takes from `DietConfig`, `seed` aside, which is of a run."""
    own = fields(config)
    taken = {item.name for item in fields(DietConfig)} if issubclass(config, DietConfig) else set()
    yield from (item for item in own if item.name not in taken or item.name == "seed")
    yield from (item for item in own if item.name in taken and item.name != "seed")


OPTIONS: Mapping[str, Declared] = declared()
DIET_OPTIONS = tuple(item.name for item in fields(DietConfig))
COLUMNS = tuple(name for name in OPTIONS if name.endswith("_column"))
# what the data of a run are: configs that agree on these options see the same examples
READING = ("data", *(name for name, one in OPTIONS.items() if one.panel == DATA and name != "dedupe_weights"))
READING += ("data_seed",)
# those by which `datadiet score` and `datadiet select` read a training split
READING_FLAGS = tuple(name for name in READING if name not in ("data", "task", "dedupe"))
DEFAULTS: Mapping[str, Any] = {item.name: item.default for item in fields(FinetuneConfig)}


def task_missing() -> str:
    """The sentence for a task that was not given."""
    *some, last = names("task")
    return f"--task is missing: {', '.join(some)} or {last}."


def usual_length(task: str | None) -> int:
    """The tokens per example where no number is given.

    Examples:
        >>> usual_length("classification"), usual_length("causal-lm")
        (128, 1024)
    """
    method = find("task", task) if isinstance(task, str) else None
    return USUAL_LENGTH if method is None else int(method.facts.get("max_length", USUAL_LENGTH))


def diet_config(config: DietConfig, **changes: Any) -> DietConfig:
    """The options of the diet alone."""
    return DietConfig(**{**{name: getattr(config, name) for name in DIET_OPTIONS}, **changes})


def flag_name(name: str) -> str:
    """The flag of an option.

    Examples:
        >>> flag_name("batch_size")
        '--batch-size'
    """
    return f"--{name.replace('_', '-')}"


# ---- checks


def option_problems(config: Any, skip: tuple[str, ...] = ()) -> list[str]:
    """Values out of their declared bounds and choices.

    Examples:
        >>> option_problems(FinetuneConfig("snips", "intent-slot", "runs/a", epochs=0, lr_warmup=6))
        ['epochs must be a whole number, at least 1, got 0.', 'lr_warmup must be in [0, 1), got 6. Did you mean 0.06?']
    """
    problems = Problems()
    for item in fields(config):
        one: Declared | None = item.metadata.get("option")
        value = getattr(config, item.name)
        if one is None or item.name in skip or (value is None and item.default is None):
            continue
        if one.word and value == one.word:
            continue
        if one.bound is not None and (problem := one.bound.problem(item.name, value)):
            problems.add(problem)
        allowed = one.choices() if callable(one.choices) else one.choices
        if allowed:
            problems.choice(item.name, value, allowed)
    return problems.found


def task_problems(config: FinetuneConfig) -> list[str]:
    """Options that have no effect with the task.

    Examples:
        >>> task_problems(FinetuneConfig("snips", "classification", "runs/a", alpha=0.3))
        ['alpha is for joint tasks (intent-slot), not for classification.']
    """
    if find("task", config.task) is None:
        return []
    given = [name for name, one in OPTIONS.items() if one.tasks and getattr(config, name) != DEFAULTS[name]]
    return [problem for name in given for problem in lacks(name, OPTIONS[name].tasks, config.task)]


def type_problem(name: str, value: object) -> list[str]:
    """A sentence on an option whose value is of another type than it takes; nothing where it fits.

    Examples:
        >>> type_problem("epochs", 2.5), type_problem("keep", "1:0.7,4:0.5"), type_problem("learning_rate", 1)
        (['epochs must be a whole number or auto, got 2.5.'], [], [])
    """
    kinds, word = plain_types(name), OPTIONS[name].word if name in OPTIONS else ""
    whole = isinstance(value, int) and not isinstance(value, bool)
    fits = type(value) in kinds or (isinstance(value, float) and float in kinds) or (whole and float in kinds)
    if fits and not (word and isinstance(value, str) and value != word):
        return []
    named = {**_KIND_WORDS, str: word or _KIND_WORDS[str]}
    allowed = " or ".join(named[kind] for kind in kinds if kind is not NoneType)
    return [f"{name} must be {allowed}, got {_described(value)}."]


def well_typed(config: FinetuneConfig) -> tuple[FinetuneConfig, list[str]]:
    """The config with defaults in place of values of a wrong type, so that the others can still be checked.

    Examples:
        >>> config, problems = well_typed(FinetuneConfig("snips", "intent-slot", "runs/a", epochs="many"))
        >>> config.epochs, problems
        (5, ["epochs must be a whole number or auto, got 'many'."])
    """
    problems = {name: type_problem(name, getattr(config, name)) for name in DEFAULTS}
    wrong: dict[str, Any] = {
        name: "" if DEFAULTS[name] is MISSING else DEFAULTS[name] for name, problem in problems.items() if problem
    }
    return replace(config, **wrong), [sentence for problem in problems.values() for sentence in problem]


_KIND_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def plain_types(name: str, config: type = FinetuneConfig) -> tuple[type, ...]:
    """The types that an option takes in a file and on the command line."""
    kind = _hints(config)[name]
    members = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    return tuple(member for member in members if member in (*_KIND_WORDS, Path, NoneType))


@cache
def _hints(config: type) -> dict[str, Any]:
    return get_type_hints(config)


# ---- files


def config_from(settings: Mapping[Any, Any]) -> FinetuneConfig:
    """A config from plain settings, e.g. a YAML file's.

    Raises:
        ArgumentError: For every option that does not exist, is missing, or has a value of another type, together.

    Examples:
        >>> needed = {"data": "snips", "task": "intent-slot", "output": "runs/a"}
        >>> config_from({**needed, "learning_rate": "1e-4"}).learning_rate
        0.0001
    """
    settings = migrated(settings)
    problems = Problems()
    for name in sorted(settings.keys() - DEFAULTS.keys(), key=str):
        problems.add(unknown("option", name, DEFAULTS))
    for name in (name for name, default in DEFAULTS.items() if default is MISSING):
        problems.check(name in settings, f"the option {name!r} is missing.")
    given: dict[str, Any] = {name: _plain(name, value) for name, value in settings.items() if name in DEFAULTS}
    for name, value in given.items():
        problems.found += type_problem(name, value)
    problems.raise_any()
    return FinetuneConfig(**given)


def read_config(path: Path, **overrides: Any) -> FinetuneConfig:
    """Read a YAML file of options; `overrides` win over it.

    Raises:
        ArgumentError: If the file is missing, is no YAML mapping, or has options that do not exist.
    """
    return config_from({**migrated(read_settings(path)), **overrides})


def read_settings(path: Path) -> dict[Any, Any]:
    """The mapping in a YAML file.

    Raises:
        ArgumentError: If the file is missing, or holds no YAML mapping.
    """
    try:
        text = read_bytes(path, "the config ")
    except DataError as error:
        raise ArgumentError(*error.problems) from error
    try:
        settings = yaml.safe_load(text.decode())
        size = _expanded(settings, {})
    except Exception as error:  # beside its own errors whatever Python says of a date, a number or the depth
        raise ArgumentError(f"{path} is not valid YAML: {cut(' '.join(str(error).split()))}") from error
    if size > _MOST_VALUES:
        raise ArgumentError(f"{path} holds more than {_MOST_VALUES:,} values, by its aliases; write them out.")
    if not isinstance(settings, dict):
        raise ArgumentError(f"{path} must hold a mapping of options, found {_described(settings)}.")
    return settings


_MOST_VALUES = 100_000


def _expanded(value: object, sizes: dict[int, int]) -> int:
    """The number of values in what YAML holds: aliases make few lines many values, or a list a part of itself."""
    if not isinstance(value, (dict, list, tuple, set)):
        return 1
    if id(value) not in sizes:
        sizes[id(value)] = _MOST_VALUES + 1  # of itself
        children = (*value, *value.values()) if isinstance(value, dict) else value
        sizes[id(value)] = 1 + sum(_expanded(child, sizes) for child in children)
    return sizes[id(value)]


# options that belonged to one method, and where they stand now: (option of the method, method or None, the old default)
MOVED: Mapping[str, tuple[str, str, str | None]] = {
    "epsilon": ("select", "epsilon", "epsilon"),
    "select_options": ("select", "", None),
    "score_options": ("score", "", None),
    "history_window": ("history", "window", "mean"),
    "history_alpha": ("history", "alpha", "ema"),
    "history_c": ("history", "c", "ema"),
}


def migrated(settings: Mapping[Any, Any]) -> dict[Any, Any]:
    """Settings of an older run folder in today's form: options of one method stand in its brackets.

    Examples:
        >>> migrated({"select": "epsilon", "epsilon": 0.3, "history_window": 3})
        {'select': 'epsilon(epsilon=0.3)'}
    """
    current = {name: value for name, value in settings.items() if name not in MOVED}
    for name, (owner, own, method) in MOVED.items():
        value = settings.get(name)
        chosen = str(current.get(owner, DEFAULTS[owner]))
        if value is None or (method is not None and chosen.partition("(")[0] != method):
            continue
        options = {own: value} if own else value if isinstance(value, Mapping) else parse_options(str(value), name)
        inside = chosen.partition("(")[2].rpartition(")")[0]
        before = parse_options(inside, chosen) if inside else {}
        current[owner] = format_call(chosen.partition("(")[0], {**before, **options})
    return current


def moved_hint(name: str, value: object = "...") -> str:
    """What to write instead of an option that belonged to one method.

    Examples:
        >>> moved_hint("select_options", "beta=0.2"), moved_hint("history_alpha", 0.8)
        ('select "NAME(beta=0.2)"', 'history "ema(alpha=0.8)"')
    """
    owner, own, method = MOVED[name]
    return f'{owner} "{method or "NAME"}({f"{own}={value}" if own else value})"'


def _plain(name: str, value: object) -> object:
    """As the config holds it: YAML reads `1e-4`, which has no point, as text."""
    kinds, word = plain_types(name), OPTIONS[name].word if name in OPTIONS else ""
    if not isinstance(value, str) or float not in kinds or (str in kinds and not word):
        return value
    with suppress(ValueError):
        return float(value)
    return value


def _described(value: object) -> str:
    return (
        "nothing" if value is None else quoted(value) if isinstance(value, (str, int, float)) else type(value).__name__
    )
