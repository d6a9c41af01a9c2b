"""datadiet: fine-tune transformers on the examples that still teach them something.

The public API is the list below. It is loaded on first use, so `import datadiet` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# name -> module that holds it, or is it; `None` for a module of that name
_PUBLIC = {
    "Diet": "datadiet.diet",
    "DietTrainer": "datadiet.integrations.huggingface",
    "DietMixin": "datadiet.integrations.huggingface",
    "DietCallback": "datadiet.integrations.huggingface",
    "epochs": "datadiet.integrations.loop",
    "finetune": "datadiet.finetuning",
    "FinetuneConfig": "datadiet.config",
    "forecast": "datadiet.forecasting",
    "Schedule": "datadiet.schedules",
    "load_data": "datadiet.data",
    "Probe": "datadiet.integrations.probe",
    "dynamics": "datadiet.dynamics_table",
    "score_data": "datadiet.score_job.job",
    "cleanlab_inputs": "datadiet.class_probabilities",
    "select_rows": "datadiet.selecting",
    "read_scores": "datadiet.score_file",
    "report": "datadiet.reporting.report",
    "plot": "datadiet.reporting.plot",
    "scores": None,
    "gradients": None,
    "distillation": None,
    "selectors": None,
    "schedules": None,
    "history": None,
    "suspects": None,
    "duplicates": None,
    "embedding": None,
    "score_file": None,
}

__all__ = ["__version__", *_PUBLIC]

if TYPE_CHECKING:
    from datadiet import distillation as distillation
    from datadiet import duplicates as duplicates
    from datadiet import embedding as embedding
    from datadiet import gradients as gradients
    from datadiet import history as history
    from datadiet import schedules as schedules
    from datadiet import score_file as score_file
    from datadiet import scores as scores
    from datadiet import selectors as selectors
    from datadiet import suspects as suspects
    from datadiet.class_probabilities import cleanlab_inputs as cleanlab_inputs
    from datadiet.config import FinetuneConfig as FinetuneConfig
    from datadiet.data import load_data as load_data
    from datadiet.diet import Diet as Diet
    from datadiet.dynamics_table import dynamics as dynamics
    from datadiet.finetuning import finetune as finetune
    from datadiet.forecasting import forecast as forecast
    from datadiet.integrations.huggingface import DietCallback as DietCallback
    from datadiet.integrations.huggingface import DietMixin as DietMixin
    from datadiet.integrations.huggingface import DietTrainer as DietTrainer
    from datadiet.integrations.loop import epochs as epochs
    from datadiet.integrations.probe import Probe as Probe
    from datadiet.reporting import plot as plot
    from datadiet.reporting.report import report as report
    from datadiet.schedules import Schedule as Schedule
    from datadiet.score_file import read_scores as read_scores
    from datadiet.score_job.job import score_data as score_data
    from datadiet.selecting import select_rows as select_rows


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'datadiet' has no attribute {name!r}")
    home = _PUBLIC[name] or f"datadiet.{name}"
    module = importlib.import_module(home)
    return module if home.endswith(f".{name}") and not hasattr(module, name) else getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
