"""One call of the command line: what every command takes, and what the process knew before it ran.

The flags of `datadiet finetune`: one line per field of `FinetuneConfig`, from which the command is built.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import MISSING, dataclass, fields
from functools import wraps
from types import UnionType
from typing import Annotated, Any, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

import typer
from rich.markup import escape

from datadiet.config import DATA_HELP, FinetuneConfig, config_from, flag_name
from datadiet.data.schema import TASKS
from datadiet.errors import Problems

AsJson = Annotated[bool, typer.Option("--json", help="Only JSON on standard output; progress goes to standard error.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@dataclass(frozen=True)
class Call:
    """What the process knows before any command runs: `started` is `time.perf_counter()` before the imports."""

    started: float


def is_given(ctx: typer.Context, name: str) -> bool:
    """Whether an option was given, and not left at its default."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name in ("COMMANDLINE", "ENVIRONMENT")


def started(ctx: typer.Context) -> float:
    """`time.perf_counter()` from where a run's total time counts."""
    call = ctx.find_root().obj
    return call.started if isinstance(call, Call) else time.perf_counter()


DATA, DIET, TRAINING, RUN = "Data", "Diet", "Training", "Run"
TASK_MISSING = f"--task is missing: {', '.join(TASKS[:-1])} or {TASKS[-1]}."


class Flag(NamedTuple):
    """One flag: the field it sets, the panel it is listed in, what it does. Type and default come from the field."""

    field: str
    panel: str
    help: str


FLAGS: tuple[Flag, ...] = (
    Flag("task", DATA, "classification, multi-label, regression, intent-slot or token-classification. Required."),
    Flag("train_rows", DATA, "Take a fixed random share of so many training rows."),
    Flag("dev_share", DATA, "Share of train set aside where there is no dev split."),
    Flag("drop_overlap", DATA, "Drop training rows whose text is also in dev or test."),
    Flag("dedupe", DATA, "Keep one of the training rows that have the same text, with the label most of them have."),
    Flag("dedupe_weights", DATA, "With --dedupe: let a kept row count in the loss as often as its text came."),
    Flag("text_column", DATA, "Column with the text; usual names are found without this."),
    Flag("text_pair_column", DATA, "Column with the second text."),
    Flag("label_column", DATA, "Column with the label or labels."),
    Flag("label_separator", DATA, "Between the labels of a text (multi-label): | , or ;."),
    Flag("tokens_column", DATA, "Column with the tokens."),
    Flag("slots_column", DATA, "Column with the slots or tags."),
    Flag("intent_column", DATA, "Column with the intent."),
    Flag("id_column", DATA, "Column with your own ids."),
    Flag("keep", DIET, "Share kept, in (0, 1]; or stepping down, epochs counted from 0: 1:0.7,4:0.5."),
    Flag("tolerance", DIET, "Instead of --keep: points of the dev metric that may be lost; finds the share itself."),
    Flag("score", DIET, "How hard an example is: el2n, cross_entropy, margin, aum, ...; datadiet methods tells all."),
    Flag("score_options", DIET, "Options of the score, such as clusters=500,metric=cosine, or {clusters: 500}."),
    Flag("combine", DIET, "How words, or intent and slots, become one score: norm, mean, sum."),
    Flag("select", DIET, "Which are kept: hardest, uncertain, random, ccs, ...; datadiet methods tells all."),
    Flag("offset", DIET, "Share of the hardest set aside as noise; auto, the default of hardest, finds wrong labels."),
    Flag("epsilon", DIET, "Share of the kept drawn at random among the rest (--select epsilon)."),
    Flag("floor", DIET, "Keep at least so many examples of each class; 0 = no floor."),
    Flag("select_options", DIET, "Others of the selector's options, such as beta=0.2,strata=20, or {beta: 0.2}."),
    Flag("history", DIET, "How values of several rounds become one: last, mean, ema."),
    Flag("history_window", DIET, "Rounds averaged by --history mean."),
    Flag("history_alpha", DIET, "Weight of the newest value in --history ema."),
    Flag("history_c", DIET, "Standard deviations added by --history ema; 0 = none."),
    Flag("warmup_epochs", DIET, "Epochs on everything at the start; 0 = the first cycle is random."),
    Flag("refresh_every", DIET, "Epochs between two choices of what is kept."),
    Flag("anneal_epochs", DIET, "Epochs on everything at the end."),
    Flag("static", DIET, "Choose once, after the warm-up."),
    Flag("rescore", DIET, "Extra forward passes at a refresh: all, dropped, or none."),
    Flag(
        "scores_from",
        DIET,
        "A run folder whose last scores start this run, matched by id; or a file of datadiet score.",
    ),
    Flag("model", TRAINING, "A hub name, a local folder, or minilm (packaged with datadiet[demo])."),
    Flag("epochs", TRAINING, "Times through the data, or what is kept of it."),
    Flag("max_steps", TRAINING, "Stop after so many steps, the LR planned for them (only with --keep 1)."),
    Flag("batch_size", TRAINING, "Examples per device and batch."),
    Flag("gradient_accumulation", TRAINING, "Batches per optimizer step."),
    Flag("learning_rate", TRAINING, "Peak learning rate of AdamW."),
    Flag("lr_schedule", TRAINING, "linear, cosine, constant, polynomial, inverse_sqrt, ... (an error names all)."),
    Flag("lr_warmup", TRAINING, "Share of the steps over which the learning rate rises."),
    Flag("weight_decay", TRAINING, "Weight decay of AdamW."),
    Flag("max_grad_norm", TRAINING, "Largest gradient norm; 0 = no clipping."),
    Flag("max_length", TRAINING, "Tokens per example; longer ones are cut."),
    Flag("label_smoothing", TRAINING, "Share of the label spread over all classes."),
    Flag("class_weights", TRAINING, "balanced: weigh each class by the inverse of its frequency."),
    Flag("alpha", TRAINING, "Weight of the intent loss in joint tasks; the slots have the rest."),
    Flag("gradient_checkpointing", TRAINING, "Less memory for more time."),
    Flag("torch_compile", TRAINING, "Compile the model."),
    Flag("lora", TRAINING, "Rank of a LoRA adapter; 0 = train all weights (needs datadiet[peft])."),
    Flag("early_stopping", TRAINING, "Stop after so many epochs without a better dev metric; 0 = never."),
    Flag("teacher", TRAINING, "A saved model or run folder that the loss follows in part: distillation."),
    Flag("teacher_temperature", TRAINING, "Softens what the teacher and the model say."),
    Flag("precision", TRAINING, "auto (bf16 where the device is fast at it), fp32, bf16, fp16."),
    Flag("output", RUN, "The run folder; must not hold another run. Required."),
    Flag("seed", RUN, "Of new weights, the order of examples and the diet."),
    Flag("data_seed", RUN, "Of the shares of the data that are set aside or taken."),
    Flag(
        "report_to", RUN, "none, or a tracker that is installed: tensorboard, wandb, trackio (pip install tensorboard)."
    ),
    Flag("checkpoint_every", RUN, "Epochs between two checkpoints to resume from; 0 = none."),
    Flag("keep_checkpoints", RUN, "Keep the checkpoints of a finished run."),
    Flag(
        "cache", RUN, "A folder that keeps tokens and a teacher's answers for other runs; the time is charged to each."
    ),
    Flag("energy", RUN, "Measure the energy of the run (needs datadiet[energy])."),
)

Command = TypeVar("Command", bound=Callable[..., Any])

OFF = "no_"
_TYPES = get_type_hints(FinetuneConfig)
_DEFAULTS = {field.name: field.default for field in fields(FinetuneConfig)}


def with_flags(chosen: Iterable[str] | None = None) -> Callable[[Command], Command]:
    """Give a command one option per flag; it receives them as keyword arguments.

    Args:
        chosen: Fields of `FLAGS`; all by default.

    Returns:
        A decorator for a command that has `**options`, in whose place the options are put.
    """
    wanted = {flag.field for flag in FLAGS} if chosen is None else set(chosen)
    options = [parameter for flag in FLAGS if flag.field in wanted for parameter in _parameters(flag)]

    def decorate(command: Command) -> Command:
        given = inspect.signature(command, eval_str=True).parameters.values()
        own = [parameter for parameter in given if parameter.kind is not inspect.Parameter.VAR_KEYWORD]

        @wraps(command)
        def with_options(*args: Any, **kwargs: Any) -> Any:
            return command(*args, **kwargs)

        # typer reads both: the signature for the options, the annotations for their types
        with_options.__signature__ = inspect.Signature([*own, *options])  # type: ignore[attr-defined]
        with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in [*own, *options]}
        return with_options  # type: ignore[return-value]

    return decorate


def _parameters(flag: Flag) -> list[inspect.Parameter]:
    """The option of a field; of one that can only be switched on, also the hidden `--no-...` that wins over a file."""
    default = _DEFAULTS[flag.field]
    kind = _plain(_TYPES[flag.field])
    option = typer.Option(flag_name(flag.field), help=escape(flag.help), rich_help_panel=flag.panel)
    if kind is bool:
        off = typer.Option(f"--no-{flag_name(flag.field)[2:]}", hidden=True)
        return [_keyword(flag.field, bool, option, False), _keyword(OFF + flag.field, bool, off, False)]
    if default is None or default is MISSING:  # what has no default is asked for later, all of it at once
        return [_keyword(flag.field, kind | None, option, None)]
    return [_keyword(flag.field, kind, option, kind(default))]


def _keyword(name: str, kind: Any, option: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option])


def _plain(kind: Any) -> Any:
    """The one type that the command line reads: `float | str` is read as text, `int | None` as int."""
    if get_origin(kind) not in (Union, UnionType):
        return kind
    members = set(get_args(kind)) - {type(None)}
    return str if str in members else members.pop()


def settings_given(options: Mapping[str, Any], is_given: Callable[[str], bool]) -> dict[str, Any]:
    """The settings that stand on the command line, without those that only have their default.

    Args:
        options: Every option by the name of its parameter.
        is_given: Whether a parameter was given.

    Example:
        >>> options = {"keep": "0.3", "epochs": 5, "no_static": True}
        >>> settings_given(options, {"keep", "no_static"}.__contains__)
        {'keep': 0.3, 'static': False}
    """
    given = {flag.field: options[flag.field] for flag in FLAGS if is_given(flag.field)}
    given |= {flag.field: False for flag in FLAGS if is_given(OFF + flag.field)}
    for name in ("keep", "offset"):
        if name in given:
            with suppress(ValueError):  # a step-down, or auto; what is neither is refused with the other options
                given[name] = float(given[name])
    return given


def config_of(given: Mapping[str, Any]) -> FinetuneConfig:
    """A config from the flags that were given.

    Raises:
        ArgumentError: If the data, the task or the run folder is missing; names all that are.

    Example:
        >>> config_of({"data": "snips", "task": "intent-slot", "output": "runs/a", "keep": 0.3}).keep
        0.3
    """
    problems = Problems()
    problems.check("data" in given, f"DATA is missing: {DATA_HELP[0].lower()}{DATA_HELP[1:]}")
    problems.check("task" in given, TASK_MISSING)
    problems.check("output" in given, "--output is missing: the run folder, such as runs/first.")
    problems.raise_any()
    return config_from(dict(given))
