"""Everything one fine-tuning run needs, as one flat record that YAML can hold and a run folder keeps."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml

from datadiet.errors import ArgumentError, Problems, unknown

DATA_HELP = "A folder, a saved datasets folder, a hub name such as glue/sst2, or snips (packaged)."


@dataclass(frozen=True)
class FinetuneConfig:
    """The options of `datadiet finetune`; the flags have the same names with dashes. Paths may be `Path` objects.

    Attributes:
        data: A folder, a saved `datasets` folder, a hub name (`glue/sst2`), or `snips`, which is packaged.
        task: `classification`, `multi-label`, `regression`, `intent-slot` or `token-classification`.
        model: A hub name, a local folder, or `minilm`, which is packaged.
        output: The run folder.
        keep: Share kept, in (0, 1]; or a step-down such as `"1:0.7,4:0.5"` (from epoch 1, from epoch 4).
        tolerance: Instead of `keep`: points of the main dev metric that may be lost; the diet finds the share itself.
        score, combine: What is measured, and how the words and heads of an example are combined: `norm` (the
            default), `mean` (the default of `uncertain`, which needs bounded values) or `sum`.
        select: Name of a selector; `epsilon` and `floor` are its options.
        offset: Share of the very hardest set aside, or `auto`: what the noise guard suspects. By default `auto` for
            `hardest` where each example has one class, else 0.
        select_options: Others of its options, as `beta=0.2,strata=20`; of one that has an entry per class
            `directions.rude=easy,directions.polite=hard`; or in braces, as `{beta: 0.2}`.
        score_options: Options of the score, in the same form: `clusters=500,metric=cosine` of `prototypes`.
        history: `last`, `mean` (over `history_window` rounds) or `ema` (`history_alpha` on the new value, plus
            `history_c` standard deviations).
        rescore: Which examples get a forward pass at a refresh: `all`, `dropped` or `none`.
        scores_from: A run folder whose last scores start this run, matched by id; or a file of `datadiet score`.
        refresh_every: Epochs from one choice to the next; 2 by default, with a tolerance 1.
        max_steps: Stop after so many optimizer steps, with the LR schedule planned for them (only with `keep` 1).
        seed: Of the model's new weights, the order of examples and the diet. `data_seed`: of the shares of the data
            that are set aside or taken, so that runs with several seeds see the same data.
        alpha: Weight of the intent loss in joint tasks.
        label_separator: Between the labels of a text in multi-label data: `|`, `,` or `;`.
        class_weights: `balanced` weighs each class by the inverse of its frequency.
        lora: Rank of a LoRA adapter; 0 trains all weights.
        early_stopping: Stop after so many epochs without a better dev metric; 0 never stops. The best weights are
            then the ones that are tested and saved.
        checkpoint_every: Epochs from one resumable checkpoint to the next; 0 writes none.
        precision: `auto` (bf16 autocast where the device is fast at it), `fp32`, `bf16`, `fp16`.
        teacher: A saved model or run folder of the same classes: the loss takes a part of it from what that model says
            of the training rows, the more the less is kept. `teacher_temperature` softens both.
        dedupe: Keep one of the training rows that have the same text, with the label that most of them have.
        dedupe_weights: With `dedupe`: a row that is kept counts in the loss as often as its text came; see
            `datadiet.diet.choose.weighed` for the scale.
        energy: Measure the energy of the run with codecarbon.
        cache: A folder that keeps tokenised data, and what a teacher says of it, for other runs on the same data. The
            time it took is charged to each.
    """

    data: str
    task: str
    output: str
    model: str = "minilm"
    keep: float | str = 0.5
    tolerance: float | None = None
    score: str = "el2n"
    score_options: str | None = None
    combine: str | None = None
    select: str = "hardest"
    offset: float | str | None = None
    epsilon: float = 0.1
    floor: int = 0
    select_options: str | None = None
    history: str = "last"
    history_window: int = 3
    history_alpha: float = 0.8
    history_c: float = 1.0
    warmup_epochs: int = 1
    refresh_every: int | None = None
    anneal_epochs: int = 0
    static: bool = False
    rescore: str = "none"
    scores_from: str | None = None
    epochs: int = 5
    max_steps: int | None = None
    batch_size: int = 32
    gradient_accumulation: int = 1
    learning_rate: float = 5e-5
    lr_schedule: str = "linear"
    lr_warmup: float = 0.06
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    max_length: int = 128
    label_smoothing: float = 0.0
    class_weights: str | None = None
    alpha: float = 0.5
    gradient_checkpointing: bool = False
    torch_compile: bool = False
    lora: int = 0
    early_stopping: int = 0
    teacher: str | None = None
    teacher_temperature: float = 2.0
    precision: str = "auto"
    seed: int = 0
    data_seed: int = 0
    train_rows: int | None = None
    dev_share: float = 0.1
    drop_overlap: bool = False
    dedupe: bool = False
    dedupe_weights: bool = False
    text_column: str | None = None
    text_pair_column: str | None = None
    label_column: str | None = None
    tokens_column: str | None = None
    slots_column: str | None = None
    intent_column: str | None = None
    id_column: str | None = None
    label_separator: str = "|"
    report_to: str = "none"
    checkpoint_every: int = 1
    keep_checkpoints: bool = False
    energy: bool = False
    cache: str | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            if isinstance(value := getattr(self, field.name), os.PathLike):
                object.__setattr__(self, field.name, os.fspath(value))  # YAML and JSON hold text

    def to_yaml(self) -> str:
        """The file that runs it again: `datadiet finetune --config FILE`."""
        return yaml.safe_dump(asdict(self), sort_keys=False, allow_unicode=True)


COLUMNS = tuple(field.name for field in fields(FinetuneConfig) if field.name.endswith("_column"))


def flag_name(field: str) -> str:
    """The flag of a field.

    Example:
        >>> flag_name("batch_size")
        '--batch-size'
    """
    return f"--{field.replace('_', '-')}"


def config_from(settings: Mapping[Any, Any]) -> FinetuneConfig:
    """A config from plain settings, e.g. a YAML file's.

    Raises:
        ArgumentError: For every option that does not exist, is missing, or has a value of another type, together.

    Example:
        >>> needed = {"data": "snips", "task": "intent-slot", "output": "runs/a"}
        >>> config_from({**needed, "learning_rate": "1e-4"}).learning_rate
        0.0001
    """
    problems = Problems()
    known = [field.name for field in fields(FinetuneConfig)]
    for name in sorted(settings.keys() - known, key=str):
        problems.add(unknown("option", name, known))
    for name in _needed():
        problems.check(name in settings, f"the option {name!r} is missing.")
    given: dict[str, Any] = {name: _as_held(name, value) for name, value in settings.items() if name in known}
    for name, value in given.items():
        problems.found += type_problem(name, value)
    problems.raise_any()
    return FinetuneConfig(**given)


def read_config(path: Path, **overrides: Any) -> FinetuneConfig:
    """Read a YAML file of options; `overrides` win over what it says.

    Raises:
        ArgumentError: If the file is missing, is no YAML mapping, or has options that do not exist.
    """
    return config_from({**read_settings(path), **overrides})


def read_settings(path: Path) -> dict[Any, Any]:
    """The mapping that a YAML file holds.

    Raises:
        ArgumentError: If the file is missing, or holds no YAML mapping.
    """
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArgumentError(f"cannot read the config {path}: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ArgumentError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(settings, dict):
        raise ArgumentError(f"{path} must hold a mapping of options, found {_described(settings)}.")
    return settings


def type_problem(name: str, value: object) -> list[str]:
    """A sentence on an option whose value is of another type than it takes; nothing where it fits.

    Example:
        >>> type_problem("epochs", 2.5), type_problem("keep", "1:0.7,4:0.5"), type_problem("learning_rate", 1)
        (['epochs must be a whole number, got 2.5.'], [], [])
    """
    kinds = _kinds()[name]
    whole = isinstance(value, int) and not isinstance(value, bool)
    if type(value) in kinds or (isinstance(value, float) and float in kinds) or (whole and float in kinds):
        return []
    wanted = " or ".join(_KIND_WORDS[kind] for kind in kinds if kind is not NoneType)
    return [f"{name} must be {wanted}, got {_described(value)}."]


def well_typed(config: FinetuneConfig) -> tuple[FinetuneConfig, list[str]]:
    """The config with defaults in place of values of a wrong type, so that the others can still be checked.

    Example:
        >>> config, problems = well_typed(FinetuneConfig("snips", "intent-slot", "runs/a", epochs="many"))
        >>> config.epochs, problems
        (5, ["epochs must be a whole number, got 'many'."])
    """
    defaults = {field.name: "" if field.default is MISSING else field.default for field in fields(config)}
    found = {name: type_problem(name, getattr(config, name)) for name in defaults}
    wrong: dict[str, Any] = {name: defaults[name] for name, problem in found.items() if problem}
    return replace(config, **wrong), [sentence for problem in found.values() for sentence in problem]


_KIND_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


@cache
def _kinds() -> dict[str, tuple[type, ...]]:
    """The types that each option takes."""
    hints = get_type_hints(FinetuneConfig)
    return {name: get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,) for name, kind in hints.items()}


def _needed() -> list[str]:
    return [field.name for field in fields(FinetuneConfig) if field.default is MISSING]


def _as_held(name: str, value: object) -> object:
    """As the config has it: YAML reads `1e-4`, which has no point, as text, and may hold options as a mapping."""
    if name in ("select_options", "score_options") and isinstance(value, Mapping):
        return json.dumps(value)
    if not isinstance(value, str) or float not in _kinds()[name] or str in _kinds()[name]:
        return value
    try:
        return float(value)
    except ValueError:
        return value


def _described(value: object) -> str:
    return "nothing" if value is None else repr(value) if isinstance(value, (str, int, float)) else type(value).__name__
