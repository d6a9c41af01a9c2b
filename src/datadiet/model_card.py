"""The README of a saved model: what it is, how to use it, the diet it was trained on, and the same for machines."""

from __future__ import annotations

import re
from typing import Any

import yaml

from datadiet.display.words import escaped
from datadiet.records import Json

# a joint model of intents and slots is none of these
PIPELINES = {
    "classification": "text-classification",
    "multi-label": "text-classification",
    "regression": "text-classification",
    "token-classification": "token-classification",
}
# our names -> those of the hub, where they differ
_HUB_METRICS = {
    "macro_f1": "f1",
    "micro_f1": "f1",
    "matthews": "matthews_correlation",
    "pearson": "pearsonr",
    "spearman": "spearmanr",
    "intent_accuracy": "accuracy",
    "slot_f1": "seqeval",
    "span_f1": "seqeval",
}


def model_card(result: Json, *, base_model: str | None = None, dataset: str | None = None) -> str:
    """The model card of a run, with the front matter that the hub reads.

    Args:
        result: What `result.json` holds.
        base_model: The hub name of what the run started from; None where it was a folder.
        dataset: The hub name of the data; None where they are the user's own.
    """
    cost, metrics, name = result["cost"], result["metrics"], escaped(result["data"]["name"])
    full = round(cost["examples_backward"] / (1 - result["ceiling"]["examples_saved"]))
    options = {name: value for name, value in result["diet"].items() if value is not None and value not in ("", {}, [])}
    lines = [
        "---",
        yaml.safe_dump(front_matter(result, base_model, dataset), sort_keys=False, allow_unicode=True).rstrip(),
        "---",
        "",
        f"# {result['task']} on {name}, on a data diet",
        "",
        f"Fine-tuned from {escaped(result['model'])} (seed {result['seed']}) with datadiet: "
        f"{cost['examples_backward']:,} examples trained instead of {full:,}. "
        f"These are the weights of the {result['weights_tested']} epoch.",
        "",
        '    datadiet predict --model FOLDER --text "..."',
        "",
        "| diet | |",
        "|---|---|",
        *(f"| {option} | {escaped(value)} |" for option, value in options.items()),
        "",
        "| metric | dev | test |",
        "|---|---|---|",
        *(f"| {metric} | {_number(value)} | {_tested(metrics, metric)} |" for metric, value in metrics["dev"].items()),
        "",
    ]
    return "\n".join(lines)


def front_matter(result: Json, base_model: str | None, dataset: str | None) -> Json:
    """What the hub reads of a card, as `huggingface_hub.ModelCardData` has it; what is not known is left out.

    Args:
        result, base_model, dataset: See `model_card`.
    """
    split, data = ("test" if result["metrics"]["test"] else "dev"), _plain_name(result["data"]["name"])
    found = {name: value for name, value in (result["metrics"][split] or {}).items() if value is not None}
    task: dict[str, Any] = {"type": PIPELINES.get(result["task"], result["task"])}
    tested = {
        "task": task,
        "dataset": {"type": dataset or data, "name": data, "split": split},
        "metrics": [
            {"type": _HUB_METRICS.get(name, name), "value": value, "name": name} for name, value in found.items()
        ],
    }
    named = {
        "library_name": "transformers",
        "pipeline_tag": PIPELINES.get(result["task"]),
        "base_model": base_model,
        "datasets": dataset and [dataset],
        "metrics": list(dict.fromkeys(_HUB_METRICS.get(name, name) for name in found)),
        "tags": ["datadiet", result["task"]],
        "model-index": [{"name": f"{_plain_name(result['model'])}-{data}", "results": [tested]}] if found else None,
    }
    return {name: value for name, value in named.items() if value}


def _plain_name(name: object) -> str:
    """A name of letters, digits and signs that mean nothing.

    Example:
        >>> _plain_name("glue/sst2"), _plain_name("<b> mine")
        ('glue/sst2', 'b-mine')
    """
    return re.sub(r"[^\w./-]+", "-", str(name)).strip("-") or "unnamed"


def _tested(metrics: Json, name: str) -> str:
    return _number((metrics["test"] or {}).get(name))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
