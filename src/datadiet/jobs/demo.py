"""The demo: full data and the diet, one after the other, on the packaged data with the packaged model.

The defaults take two to four minutes on two CPU cores. Both runs happen in one process, after the imports; each counts
its own loading of data and model, so the two totals compare.
"""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from datadiet.config import FinetuneConfig
from datadiet.errors import ArgumentError, Problems, UserError
from datadiet.files import write_atomically
from datadiet.types import Json, Listener

RECORD = "demo.json"
RUNS = ("full", "diet")
# of a share of time: the noise between two runs on a quiet machine
NOISE = 0.08
QUALITY = ("intent_accuracy", "slot_f1", "exact_match")

ListenerFactory = Callable[[str], AbstractContextManager[Listener]]


@dataclass(frozen=True)
class DemoOptions:
    """The options of the demo.

    Attributes:
        train_rows: Training rows, a fixed share of SNIPS.
        epochs: Of both runs.
        keep: Of the diet.
        model: A hub name, a local folder, or `minilm`.
        batch_size: Examples per step.
        learning_rate: Peak, for both.
        seed: Of both runs.
        precision: `auto`, `fp32`, `bf16`, `fp16`.
    """

    train_rows: int = 2000
    epochs: int = 6
    keep: float = 0.5
    model: str = "minilm"
    batch_size: int = 32
    learning_rate: float = 5e-4  # the best for both runs on dev, of 1e-4, 2e-4 and 5e-4: there are few steps
    seed: int = 0
    precision: str = "auto"


def run_demo(
    output: Path,
    listener_factory: ListenerFactory,
    *,
    options: DemoOptions = DemoOptions(),
    force: bool = False,
) -> Json:
    """Train on everything, then on the diet, and put the two side by side.

    Args:
        output: Receives `full/`, `diet/` (run folders) and `demo.json`.
        listener_factory: Given a title, a context in which one run is shown.
        options: See `DemoOptions`.
        force: Replace an earlier demo in `output`, and nothing but a demo.

    Returns:
        The content of `demo.json`: `full`, `diet` (each a `result.json`), `saved` (shares of finetune_s and total_s),
        `ceiling`, `quality` (names of the metrics compared), `keep`, `finished`.

    Raises:
        ArgumentError: If an option is not allowed, or `output` exists and must not be replaced.
    """
    check_options(options)
    configs = demo_configs(output, options)
    prepare_folder(output, force)
    try:
        results = _train_both(configs, listener_factory)
    except UserError:
        _leave_nothing(output)
        raise
    demo = compare(results["full"], results["diet"], options.keep)
    _write(output, demo)
    return demo


def _train_both(configs: Mapping[str, FinetuneConfig], listener_factory: ListenerFactory) -> dict[str, Json]:
    from datadiet.jobs.finetune import finetune  # before any clock starts: no run is charged for imports
    from datadiet.jobs.validate import check_config

    check_config(configs["diet"])  # an error of the second run appears before the first one
    titles = {"full": "1/2 full data", "diet": f"2/2 data diet, keep {configs['diet'].keep}"}
    results: dict[str, Json] = {}
    for name in RUNS:
        with listener_factory(titles[name]) as listener:
            results[name] = finetune(configs[name], listener=listener)
    return results


def check_options(options: DemoOptions) -> None:
    """Refuse options with which the second run would fail, before the first one starts.

    Raises:
        ArgumentError: All problems at once.
    """
    problems = Problems()
    problems.share("--keep", options.keep)
    problems.check(options.keep != 1, "--keep 1 is full data, the other run of the demo: give less.")
    problems.whole("--train-rows", options.train_rows, least=1)
    problems.whole("--epochs", options.epochs, least=2)
    problems.raise_any()


def demo_configs(output: Path, options: DemoOptions) -> dict[str, FinetuneConfig]:
    """The two runs: equal in everything but `keep`.

    Examples:
        >>> configs = demo_configs(Path("runs/demo"), DemoOptions())
        >>> configs["full"].keep, configs["diet"].keep, configs["full"].epochs == configs["diet"].epochs
        (1.0, 0.5, True)
    """
    diet = FinetuneConfig(
        data="snips",
        task="intent-slot",
        output=str(output / "diet"),
        warmup_epochs=1,
        refresh_every=2,
        checkpoint_every=0,  # the demo starts again, and a checkpoint is three times as large as the model
        **asdict(options),
    )
    return {"full": replace(diet, keep=1.0, output=str(output / "full")), "diet": diet}


def compare(full: Json, diet: Json, keep: float) -> Json:
    """Two results side by side; savings are shares of what full data took.

    Examples:
        >>> cost = {"finetune_s": 80.0, "total_s": 100.0}
        >>> result = {"cost": cost, "ceiling": {}, "metrics": {"test": {}}}
        >>> compare(result, result | {"cost": {"finetune_s": 40.0, "total_s": 60.0}}, 0.5)["saved"]
        {'finetune_s': 0.5, 'total_s': 0.4}
    """
    saved = {key: 1 - diet["cost"][key] / full["cost"][key] for key in ("finetune_s", "total_s")}
    tested = full["metrics"]["test"]
    return {
        "schema": 1,
        "finished": True,
        "keep": keep,
        "quality": [name for name in QUALITY if name in tested],
        "saved": saved,
        "ceiling": diet["ceiling"],
        "full": full,
        "diet": diet,
    }


def busy_note(demo: Json) -> str:
    """A warning about impossible times: no run saves a much larger share of its time than of its tokens.

    Examples:
        >>> busy_note({"saved": {"finetune_s": 0.5}, "ceiling": {"tokens_saved": 0.4}})[:41]
        'The time saved is far above the ceiling, '
        >>> busy_note({"saved": {"finetune_s": 0.43}, "ceiling": {"tokens_saved": 0.4}})
        ''
    """
    saved, ceiling = demo["saved"]["finetune_s"], demo["ceiling"].get("tokens_saved")
    if ceiling is None or saved <= ceiling + NOISE:
        return ""
    return (
        "The time saved is far above the ceiling, which no diet reaches: something else used the machine during the "
        "first run. Repeat the demo on a quiet machine before you believe its times.\n"
    )


def prepare_folder(output: Path, force: bool) -> None:
    """Make room for a demo and mark the folder as one.

    Raises:
        ArgumentError: If there is something that may not be replaced.
    """
    present = sorted(path.name for path in output.iterdir()) if output.is_dir() else []
    if output.exists() and not output.is_dir():
        raise ArgumentError(f"{output} is a file; give a folder with --output.")
    if present:
        _refuse_unless_demo(output, present, force)
        for name in RUNS:
            shutil.rmtree(output / name, ignore_errors=True)
    output.mkdir(parents=True, exist_ok=True)
    _write(output, {"schema": 1, "finished": False})  # marks the folder as ours, also if the demo is interrupted


def _refuse_unless_demo(output: Path, present: list[str], force: bool) -> None:
    foreign = [name for name in present if name not in (*RUNS, RECORD)]
    if RECORD not in present or foreign:
        names = ", ".join((foreign or present)[:3])
        raise ArgumentError(f"{output} exists and holds more than a demo ({names}): give another --output.")
    if not force:
        raise ArgumentError(f"{output} holds an earlier demo: --force replaces it, or give another --output.")


def _leave_nothing(output: Path) -> None:
    """Remove the record, and the folder if nothing else is in it, after bad input."""
    (output / RECORD).unlink(missing_ok=True)
    if not any(output.iterdir()):
        output.rmdir()


def _write(output: Path, content: Json) -> None:
    write_atomically(output / RECORD, json.dumps(content, indent=2) + "\n")


CLOSING = (
    "\nBoth runs in one process, one after the other; each counts loading its data and model. One seed is an anecdote: "
    "differences of half a point are noise. Before you believe in a diet, compare it with training on everything for "
    "fewer epochs.\n"
)
NEXT = """Try next:
  datadiet predict --model {output}/diet/model --text "play some jazz by miles davis"
  datadiet finetune YOUR_FOLDER --task classification --keep 0.5 --output runs/first
  datadiet methods"""


def next_commands(output: Path) -> str:
    """Commands to try next.

    Args:
        output: The folder of the demo.
    """
    return NEXT.format(output=shlex.quote(str(output)))
