"""Shared by the tests of tasks: a saved tiny encoder."""

from __future__ import annotations

import pytest

from toys import tiny_model_folder


@pytest.fixture
def folder(tmp_path):
    return str(tiny_model_folder(tmp_path))
