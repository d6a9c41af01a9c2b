"""The diet as a plain `TrainerCallback`, for Trainers that cannot be subclassed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from datadiet.checks import ArgumentError, Problems
from datadiet.diet import Diet
from datadiet.integrations.rows import ROW_KEY, carry_rows
from datadiet.integrations.sampler import DietSampler
from datadiet.tasks import signals_of

CONSTANT = ("constant", "constant_with_warmup")


class DietCallback(TrainerCallback):
    """A diet for a Trainer that is not ours: `Trainer(..., callbacks=[DietCallback(diet)])`.

    A callback cannot change how many steps the Trainer plans, since the Trainer reads its loader's length before any
    callback is asked, and it is never told what a run resumes from. So it takes a constant learning rate only, one
    process, `rescore="none"`, and no resuming; for anything else use `DietMixin`. The progress bar, which counts to the
    steps of full training, never fills.

    Args:
        diet: The diet.
        run_folder: Where scores/ and plans/ are written; in memory by default.

    Raises:
        ArgumentError: At the start of training, with everything that does not fit.
    """

    def __init__(self, diet: Diet, run_folder: Path | None = None) -> None:
        self.diet, self._run_folder = diet, run_folder
        self._epoch = 0
        self._sampler: DietSampler | None = None
        self._rows: torch.Tensor | None = None
        self._labels: dict[str, Any] = {}
        self._hooks: list[Any] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take over the loader that the Trainer has built, and listen to the model."""
        _check(self.diet, args, state)
        loader, model = kwargs["train_dataloader"], kwargs["model"]
        batch = args.train_batch_size * args.gradient_accumulation_steps
        count = len(loader.dataset)
        self.diet.begin(count, epochs=int(np.ceil(args.num_train_epochs)), batch=batch, folder=self._run_folder)
        carry_rows(loader)
        if self.diet.plans:
            seed = args.data_seed or args.seed
            self._sampler = DietSampler.like(loader.get_sampler(), count, seed, processes=args.world_size)
            loader.set_sampler(self._sampler)
        self._hooks = [
            model.register_forward_pre_hook(self._before, with_kwargs=True),
            model.register_forward_hook(self._after),
        ]

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Choose what this epoch trains on."""
        self.diet.absorb(self.diet.drain())
        plan = self.diet.plan(self._epoch)
        if plan.weights is not None:
            raise ArgumentError("the selector gives loss weights, which DietCallback cannot apply; use DietMixin.")
        if self._sampler is not None:
            self._sampler.set_plan(plan)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count the epoch; the Trainer's own count is in steps of full training."""
        self._epoch += 1

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keep what the last epoch saw and let go of the model."""
        self.diet.absorb(self.diet.drain())
        for hook in self._hooks:
            hook.remove()

    def _before(self, _module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        self._rows = kwargs.pop(ROW_KEY, None)
        self._labels = {name: value for name, value in kwargs.items() if "label" in name}
        return args, kwargs

    def _after(self, _module: Any, _inputs: Any, outputs: Any) -> None:
        if self._rows is None:
            return
        read = self.diet.signals or _signals
        self.diet.observe(self._rows, read(outputs, self._labels), epoch=self._epoch)
        self._rows = None


def _signals(outputs: Any, labels: Mapping[str, Any]) -> Any:
    if not labels:
        raise ArgumentError(
            "DietCallback sees what the model is called with, and there were no labels (label smoothing and "
            "compute_loss_func take them out); use DietMixin."
        )
    return signals_of(outputs, labels)


def _check(diet: Diet, args: Any, state: Any) -> None:
    problems = Problems()
    dieting = diet.plans
    schedule = str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type))
    problems.check(
        not dieting or schedule in CONSTANT,
        f"DietCallback cannot make the {schedule!r} learning rate end where it should, because the Trainer has planned "
        f"its steps already; use DietMixin, or lr_scheduler_type one of {', '.join(CONSTANT)}.",
    )
    problems.check(diet.tolerance is None, "DietCallback cannot decide steps as it goes: a tolerance needs DietMixin.")
    problems.check(not dieting or args.max_steps <= 0, "DietCallback cannot plan max_steps; use DietMixin.")
    problems.check(args.world_size <= 1, "DietCallback works on one process; use DietMixin.")
    problems.check(not diet.in_batch, f"DietCallback cannot choose within batches ({diet.select!r}); use DietMixin.")
    problems.check(diet.rescore == "none", f"DietCallback cannot rescore {diet.rescore!r} examples; use DietMixin.")
    problems.check(state.global_step == 0, "DietCallback cannot resume: it is not told from where; use DietMixin.")
    problems.raise_any()
