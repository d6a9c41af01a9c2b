"""Everything one fine-tuning run needs, as one flat record that YAML can hold and a run folder keeps."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from datadiet.checks import ArgumentError, Problems, unknown


@dataclass(frozen=True)
class FinetuneConfig:
    """The options of `datadiet finetune`; the flags have the same names with dashes.

    Attributes:
        data: A folder, a saved `datasets` folder, a hub name (`glue/sst2`), or `snips`, which is packaged.
        task: `classification`, `regression` or `intent-slot`.
        model: A hub name, a local folder, or `minilm`, which is packaged.
        output: The run folder.
        keep: Share kept, in (0, 1]; or a step-down such as `"1:0.7,4:0.5"` (from epoch 1, from epoch 4).
        score, combine: What is measured and how heads are combined (`norm`, `mean`, `sum`; joint tasks only).
        select: Name of a selector; `offset`, `epsilon` and `floor` are its options.
        history: `last`, `mean` (over `history_window` rounds) or `ema` (`history_alpha` on the new value, plus
            `history_c` standard deviations).
        rescore: Which examples get a forward pass at a refresh: `all`, `dropped` or `none`.
        scores_from: A run folder whose last scores start this run, matched by id.
        max_steps: Stop after so many optimizer steps, with the LR schedule planned for them (only with `keep` 1).
        seed: Of the model's new weights, the order of examples and the diet. `data_seed`: of the shares of the data
            that are set aside or taken, so that runs with several seeds see the same data.
        alpha: Weight of the intent loss in joint tasks.
        class_weights: `balanced` weighs each class by the inverse of its frequency.
        lora: Rank of a LoRA adapter; 0 trains all weights.
        early_stopping: Stop after so many epochs without a better dev metric; 0 never stops. The best weights are
            then the ones that are tested and saved.
        precision: `auto` (bf16 autocast where the device is fast at it), `fp32`, `bf16`, `fp16`.
    """

    data: str
    task: str
    output: str
    model: str = "minilm"
    keep: float | str = 0.5
    score: str = "el2n"
    combine: str = "norm"
    select: str = "hardest"
    offset: float = 0.0
    epsilon: float = 0.1
    floor: int = 0
    history: str = "last"
    history_window: int = 3
    history_alpha: float = 0.8
    history_c: float = 1.0
    warmup_epochs: int = 1
    refresh_every: int = 2
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
    precision: str = "auto"
    seed: int = 0
    data_seed: int = 0
    train_rows: int | None = None
    dev_share: float = 0.1
    drop_overlap: bool = False
    text_column: str | None = None
    text_pair_column: str | None = None
    label_column: str | None = None
    tokens_column: str | None = None
    slots_column: str | None = None
    intent_column: str | None = None
    id_column: str | None = None
    report_to: str = "none"
    keep_checkpoints: bool = False

    def to_yaml(self) -> str:
        """The file that runs it again: `datadiet finetune --config FILE`."""
        return yaml.safe_dump(asdict(self), sort_keys=False, allow_unicode=True)


def config_from(settings: dict[str, Any]) -> FinetuneConfig:
    """A config from plain settings, e.g. a YAML file's.

    Raises:
        ArgumentError: For every option that does not exist or is missing, together.
    """
    problems = Problems()
    known = {field.name for field in fields(FinetuneConfig)}
    for name in settings.keys() - known:
        problems.add(unknown("option", name, known))
    for name in ("data", "task", "output"):
        problems.check(name in settings, f"the option {name!r} is missing.")
    problems.raise_any()
    return FinetuneConfig(**settings)


def read_config(path: Path, **overrides: Any) -> FinetuneConfig:
    """Read a YAML file of options; `overrides` win over what it says.

    Raises:
        ArgumentError: If the file is missing, is no YAML mapping, or has options that do not exist.
    """
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArgumentError(f"cannot read the config {path}: {error.strerror}.") from error
    except yaml.YAMLError as error:
        raise ArgumentError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(settings, dict):
        raise ArgumentError(f"{path} must hold a mapping of options, found {type(settings).__name__}.")
    return config_from({**settings, **overrides})
