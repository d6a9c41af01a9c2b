"""The flags of `finetune` are the fields of `FinetuneConfig`, one to one."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, fields
from typing import Any

import pytest

from datadiet.cli.options import config_of, settings_given, with_flags
from datadiet.config import COLUMNS, MOVED, OPTIONS, FinetuneConfig, flag_name
from datadiet.errors import ArgumentError

FIELDS = {field.name: field for field in fields(FinetuneConfig)}
GIVEN = {"data": "snips", "task": "intent-slot", "output": "runs/a"}


@with_flags()
def command(data: str, **options: Any) -> tuple[str, dict[str, Any]]:
    """Stands for the real command."""
    return data, options


PARAMETERS = inspect.signature(command).parameters


def test_every_field_is_a_flag_but_data_which_is_the_argument() -> None:
    assert sorted([*OPTIONS, "data"]) == sorted(FIELDS)


@pytest.mark.parametrize("name", OPTIONS)
def test_flag_has_the_default(name: str) -> None:
    default, shown = FIELDS[name].default, PARAMETERS[name].default
    assert shown == (None if default is MISSING else default) or shown == str(default)


@pytest.mark.parametrize("name", MOVED)
def test_a_flag_that_moved_says_where(name: str) -> None:
    with pytest.raises(ArgumentError, match=rf"{flag_name(name)} is written with the method .*: --{MOVED[name][0]} "):
        settings_given({name: "x=1"}, {name}.__contains__)


def test_the_commands_own_parameters_come_first() -> None:
    assert next(iter(PARAMETERS)) == "data"
    assert "options" not in PARAMETERS
    assert command("d", keep="0.3") == ("d", {"keep": "0.3"})


@pytest.mark.parametrize(
    ("field", "kind"),
    [
        ("keep", "str"),
        ("batch_size", "int"),
        ("learning_rate", "float"),
        ("epochs", "int"),
        ("static", "bool"),
        ("task", "str | None"),
    ],
)
def test_types_come_from_the_fields(field: str, kind: str) -> None:
    annotation = PARAMETERS[field].annotation.__args__[0]
    assert (annotation.__name__ if isinstance(annotation, type) else str(annotation)) == kind


def test_flag_name_has_dashes() -> None:
    assert flag_name("max_grad_norm") == "--max-grad-norm"


@pytest.mark.parametrize(
    ("text", "keep"), [("0.5", 0.5), ("70", 70.0), ("1:0.7,4:0.5", "1:0.7,4:0.5"), ("half", "half")]
)
def test_keep_is_a_number_where_it_reads_as_one(text: str, keep: object) -> None:
    assert settings_given({"keep": text}, {"keep"}.__contains__) == {"keep": keep}


def test_only_what_was_given_counts() -> None:
    options = {"keep": "0.5", "epochs": 5, "seed": 3, "no_static": True}
    assert settings_given(options, {"seed", "no_static"}.__contains__) == {"seed": 3, "static": False}


@pytest.mark.parametrize(
    ("left_out", "named"), [("data", "DATA is missing"), ("task", "--task is"), ("output", "--output is")]
)
def test_what_is_missing_is_named(left_out: str, named: str) -> None:
    with pytest.raises(ArgumentError, match=named):
        config_of({name: value for name, value in GIVEN.items() if name != left_out})


def test_everything_missing_is_named_at_once() -> None:
    with pytest.raises(ArgumentError, match="DATA") as caught:
        config_of({})
    assert len(caught.value.problems) == 3


def test_config_of_what_was_given() -> None:
    assert config_of({**GIVEN, "keep": 0.3}) == FinetuneConfig(keep=0.3, **GIVEN)


def test_a_command_can_have_some_of_the_flags() -> None:
    @with_flags(COLUMNS)
    def other(model: str, **columns: Any) -> None:
        """Takes the names of columns alone."""

    names = list(inspect.signature(other).parameters)
    assert names == ["model", *COLUMNS]
