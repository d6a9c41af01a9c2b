"""What a tracker of the Trainer is told of the diet, read back from its own files."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers.integrations import integration_utils

from datadiet.errors import ArgumentError
from datadiet.jobs.finetune import finetune
from datadiet.jobs.validate import check_config
from toys import toy_config


def test_tensorboard_has_what_the_diet_does(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    finetune(toy_config(tmp_path, keep=0.5, epochs=3, refresh_every=1, report_to="tensorboard"))
    logs = tmp_path / "run" / "logs"
    assert [file.name.split(".")[0] for file in logs.iterdir()] == ["events"]
    events = accumulator.EventAccumulator(str(logs)).Reload()
    values = {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert values["train/diet_kept"] == [48, 24, 24]
    assert values["train/diet_dropped"] == [0, 24, 24]
    assert len(values["train/diet_seconds_saved"]) == 3
    percentiles = [values[tag] for tag in sorted(values) if tag.startswith("train/diet_score_")]
    assert len(percentiles) >= 3
    assert all(len(column) == 2 for column in percentiles)  # before the first epoch there are no scores
    assert len(values["eval/accuracy"]) == 3


def test_a_tracker_that_is_not_there_is_told_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(integration_utils, "get_available_reporting_integrations", lambda: ["codecarbon"])
    with pytest.raises(ArgumentError) as error:
        check_config(toy_config(tmp_path, report_to="tensorboard"))
    assert error.value.problems == (
        "report_to 'tensorboard' is unknown or not installed; allowed here: none, all, codecarbon. "
        "To have it: pip install tensorboard.",
    )
    with pytest.raises(ArgumentError, match=r"codecarbon\. More with: pip install tensorboard"):
        check_config(toy_config(tmp_path, report_to="tensorbord"))
