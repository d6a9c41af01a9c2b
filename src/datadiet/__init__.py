"""datadiet: dynamic data pruning for fine-tuning Transformers.

The public API is the list below. It is loaded on first use, so `import datadiet` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# name -> "module:attribute", or a module
_PUBLIC = {
    "Diet": "datadiet.diet.diet:Diet",
    "DietTrainer": "datadiet.training.trainer:DietTrainer",
    "DietMixin": "datadiet.training.trainer:DietMixin",
    "DietCallback": "datadiet.training.loop:DietCallback",
    "epochs": "datadiet.training.loop:epochs",
    "finetune": "datadiet.jobs.finetune:finetune",
    "FinetuneConfig": "datadiet.config:FinetuneConfig",
    "forecast": "datadiet.diet.forecast:forecast",
    "Schedule": "datadiet.diet.schedule:Schedule",
    "load_data": "datadiet.data.load:load_data",
    "Probe": "datadiet.training.probe:Probe",
    "dynamics": "datadiet.store.dynamics:dynamics",
    "score_data": "datadiet.jobs.score:score_data",
    "cleanlab_inputs": "datadiet.noise.probabilities:cleanlab_inputs",
    "select_rows": "datadiet.jobs.select_rows:select_rows",
    "read_scores": "datadiet.store.score_file:read_scores",
    "report": "datadiet.reporting:report",
    "plot": "datadiet.reporting.plot",
    "scores": "datadiet.scores",
    "gradients": "datadiet.scoring",
    "distillation": "datadiet.training.distill",
    "selectors": "datadiet.selectors",
    "schedules": "datadiet.diet.schedule",
    "history": "datadiet.scores.history",
    "suspects": "datadiet.noise",
    "duplicates": "datadiet.data.duplicates",
    "embedding": "datadiet.scoring.embed",
    "score_file": "datadiet.store.score_file",
}

__all__ = ["__version__", *_PUBLIC]

if TYPE_CHECKING:
    from datadiet import noise as suspects
    from datadiet import scores as scores
    from datadiet import scoring as gradients
    from datadiet import selectors as selectors
    from datadiet.config import FinetuneConfig as FinetuneConfig
    from datadiet.data import duplicates as duplicates
    from datadiet.data.load import load_data as load_data
    from datadiet.diet import schedule as schedules
    from datadiet.diet.diet import Diet as Diet
    from datadiet.diet.forecast import forecast as forecast
    from datadiet.diet.schedule import Schedule as Schedule
    from datadiet.jobs.finetune import finetune as finetune
    from datadiet.jobs.score import score_data as score_data
    from datadiet.jobs.select_rows import select_rows as select_rows
    from datadiet.noise.probabilities import cleanlab_inputs as cleanlab_inputs
    from datadiet.reporting import plot as plot
    from datadiet.reporting import report as report
    from datadiet.scores import history as history
    from datadiet.scoring import embed as embedding
    from datadiet.store import score_file as score_file
    from datadiet.store.dynamics import dynamics as dynamics
    from datadiet.store.score_file import read_scores as read_scores
    from datadiet.training import distill as distillation
    from datadiet.training.loop import DietCallback as DietCallback
    from datadiet.training.loop import epochs as epochs
    from datadiet.training.probe import Probe as Probe
    from datadiet.training.trainer import DietMixin as DietMixin
    from datadiet.training.trainer import DietTrainer as DietTrainer

    __all__ += ["distillation", "embedding", "gradients", "schedules", "suspects"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'datadiet' has no attribute {name!r}")
    home, _, attribute = _PUBLIC[name].partition(":")
    module = importlib.import_module(home)
    return getattr(module, attribute) if attribute else module


def __dir__() -> list[str]:
    return sorted(__all__)
