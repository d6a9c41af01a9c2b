"""Makes `from toys import ...` work from every test folder and keeps the tests off the network."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))

from launching import unwaited

# before transformers is imported: it reads these once
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# two workers with two threads each would wait for one another on every small operation
os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("ci", derandomize=True)  # a change fails by its own fault; elsewhere the cases are new ones
if os.environ.get("DATADIET_CI"):
    settings.load_profile("ci")


def pytest_collection_finish() -> None:
    """The Trainer collects garbage at each start: half a second over everything that has been imported by now."""
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _no_waiting_for_the_disk() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", unwaited)
        yield


@pytest.fixture(autouse=True)
def _no_gpu_for_cpu_tests(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the GPU, from this process and its subprocesses, where a test is marked `cpu`."""
    if request.node.get_closest_marker("cpu") is None:
        return
    import torch
    from accelerate.state import AcceleratorState

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for backend in (torch.accelerator, torch.cuda):
        monkeypatch.setattr(backend, "is_available", lambda: False)
    AcceleratorState._reset_state(reset_partial_state=True)  # an earlier test may have put it on the GPU


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The cells of a comparison are pretended (see `toys.py`); put a method's name in to let its cells fail."""
    from toys import pretend_runs

    return pretend_runs(monkeypatch)
