"""datadiet: fine-tune transformers on the examples that still teach them something.

The public API is the list below. It is loaded on first use, so `import datadiet` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# name -> module that holds it; `None` for the module itself
_PUBLIC = {
    "Diet": "datadiet.diet",
    "DietTrainer": "datadiet.integrations.huggingface",
    "DietMixin": "datadiet.integrations.huggingface",
    "DietCallback": "datadiet.integrations.huggingface",
    "epochs": "datadiet.integrations.loop",
    "finetune": "datadiet.finetuning",
    "FinetuneConfig": "datadiet.config",
    "forecast": "datadiet.schedules",
    "Schedule": "datadiet.schedules",
    "load_data": "datadiet.data",
    "scores": None,
    "selectors": None,
    "schedules": None,
    "history": None,
}

__all__ = ["__version__", *_PUBLIC]

if TYPE_CHECKING:
    from datadiet import history, schedules, scores, selectors
    from datadiet.config import FinetuneConfig
    from datadiet.data import load_data
    from datadiet.diet import Diet
    from datadiet.finetuning import finetune
    from datadiet.integrations.huggingface import DietCallback, DietMixin, DietTrainer
    from datadiet.integrations.loop import epochs
    from datadiet.schedules import Schedule, forecast


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'datadiet' has no attribute {name!r}")
    home = _PUBLIC[name]
    return importlib.import_module(f"datadiet.{name}") if home is None else getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
