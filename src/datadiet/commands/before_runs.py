"""What is looked at before any run of a comparison starts: the options of every arm, and the data with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datadiet.checks import UserError
from datadiet.comparison.presets import OF_A_RUN
from datadiet.config import FinetuneConfig

if TYPE_CHECKING:
    from datadiet.data import Dataset
    from datadiet.diet import Diet


def arm_problems(configs: Mapping[str, FinetuneConfig], note: Callable[[str], object]) -> dict[str, list[str]]:
    """What is wrong with each arm; torch is imported here, and the data are read once.

    Args:
        configs: Of one run of each arm, by the arm's name.
        note: Is told of what takes seconds.

    Returns:
        Problems by arm; arms without any are left out.
    """
    note("importing torch and transformers, to check the options of every method ...")
    from datadiet.config_checks import check_config, source_problems

    found: dict[str, list[str]] = {}
    diets: dict[str, Diet] = {}
    for arm, config in configs.items():
        try:
            diets[arm] = check_config(config, resume=True)
        except UserError as error:
            found[arm] = list(error.problems)
        if problems := source_problems(_without_own(config), diets.get(arm)):
            found[arm] = [*found.get(arm, []), *problems]
    # nothing is fetched while options are wrong
    checked = {arm: configs[arm] for arm in diets if arm not in found and (not found or _is_here(configs[arm].data))}
    if checked:
        note("reading the data, to check every method with them ...")
    data = _Shared()
    for arm, config in checked.items():
        problems = _data_problems(config, diets[arm], data)
        if problems:
            found[arm] = problems
    return {arm: found[arm] for arm in configs if arm in found}


def _without_own(config: FinetuneConfig) -> FinetuneConfig:
    """Without the runs of the same comparison that it learns from: they may still have to be made."""
    runs = Path(config.output).parent
    given = {name: getattr(config, name) for name in OF_A_RUN}
    own: dict[str, Any] = {name: None for name, path in given.items() if path and Path(path).parent == runs}
    return replace(config, **own)


def _data_problems(config: FinetuneConfig, diet: Diet, shared: _Shared) -> list[str]:
    from datadiet.data_checks import check_with_data

    try:
        check_with_data(config, diet, shared.of(config))
    except UserError as error:
        return list(error.problems)
    return []


def _is_here(source: str) -> bool:
    from datadiet.data.hub import hub_name

    return Path(source).expanduser().exists() or hub_name(source) is None


class _Shared:
    """Data of several configs, each read once, be they usable or not."""

    def __init__(self) -> None:
        self._read: dict[tuple[Any, ...], Dataset | UserError] = {}

    def of(self, config: FinetuneConfig) -> Dataset:
        from datadiet.data.configured import READING, load_configured

        key = tuple(getattr(config, name) for name in READING)
        if key not in self._read:
            try:
                self._read[key] = load_configured(config)
            except UserError as error:
                self._read[key] = error
        held = self._read[key]
        if isinstance(held, UserError):
            raise held
        return held
