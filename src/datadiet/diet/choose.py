"""Which rows a cycle trains on: the selectors of a diet, bound to its options and seed, and the turns of the rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import compress
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from datadiet.diet.options import DietOptions, Selector
from datadiet.diet.race import COVER, RULES
from datadiet.diet.schedule import BaseSchedule
from datadiet.errors import ArgumentError, quoted
from datadiet.registry import load, parse_call, selectors_in
from datadiet.selectors.base import picked
from datadiet.selectors.turns import Turns
from datadiet.types import IGNORED, EpochPlan, Selection

Rows = NDArray[np.int64]
_VISITS, _EXPECTED = "turns.visits", "turns.expected"


@dataclass(frozen=True)
class SelectorContext:
    """What a selector may go by beside the values of the rows; every part may be missing.

    Attributes:
        groups: int32 or int64 `(n,)`, the class of each row.
        features: float `(n, size)`, or a SciPy CSR matrix: where each row lies, for selectors that cover a space.
        recalls: Recall of each class on the dev split.
        scale: The largest value the score can have.
        turns: How often each row has trained in the cycles before.
        entropy: float32 `(n,)`, how uncertain the model was of each row; +inf where it was never seen.
        texts: `(n,)`, where rows are chosen once.
    """

    groups: NDArray[np.int32] | NDArray[np.int64] | None = None
    features: Any = None
    recalls: Mapping[int, float] | None = None
    scale: float | None = None
    turns: Turns | None = None
    entropy: NDArray[np.float32] | None = None
    texts: Sequence[str] | None = None

    def of(self, rows: NDArray[np.bool_]) -> SelectorContext:
        """The same of some rows, bool `(n,)`."""
        return replace(
            self,
            groups=None if self.groups is None else picked(np.asarray(self.groups), rows, np.int32),  # half the memory
            features=None if self.features is None else self.features[rows],
            turns=None if self.turns is None else self.turns.of(rows),
            entropy=None if self.entropy is None else picked(self.entropy, rows),
            texts=None if self.texts is None else list(compress(self.texts, rows)),
        )


def weighed(plan: EpochPlan, row_weights: NDArray[np.float32] | None) -> EpochPlan:
    """A plan whose rows also have loss weights of their own.

    `w_i = r_i m / sum_S(r)` over the m rows S of a plan without weights: the weights of what is trained on have the
    mean 1, so that the loss keeps its scale. Where a selector gives weights `s`, whose sums stand for all n rows:
    `w_i = s_i r_i n / sum_all(r)`, which leaves them as unbiased as they were.

    Args:
        plan: Its `weights` are those of the selector.
        row_weights: float `(num_rows,)`, above 0, on any scale; None where all rows are alike.

    Examples:
        >>> rows = np.array([3.0, 1.0, 1.0, 1.0], np.float32)  # the first one stands for three
        >>> weighed(EpochPlan(0, np.array([0, 1]), full=False), rows).weights
        array([1.5, 0.5], dtype=float32)
        >>> drawn = EpochPlan(0, np.array([0, 1]), full=False, weights=np.float32([1, 3]))
        >>> weighed(drawn, rows).weights
        array([2., 2.], dtype=float32)
    """
    if row_weights is None:
        return plan
    own = row_weights[plan.rows].astype(np.float64)
    everything = row_weights.mean(dtype=np.float64)
    weights = own / own.mean() if plan.weights is None else plan.weights * own / everything
    return replace(plan, weights=weights.astype(np.float32))


class BoundSelector:
    """A selector with its options and the seed of a run.

    Args:
        select: A name, or a function of the common form of `datadiet.selectors`.
        options: Of the selector, by name; a selector inside it by its name.
        floor: Least number of rows of each class; 0 = none.
        seed: Of ties and random choices.

    Attributes:
        needs: What it cannot do without, of `groups`, `features`, `recalls` and `texts`.
        takes_turns: Whether it goes by how often each row has trained.
        takes_entropy: Whether it goes by how uncertain the model was of each row.
    """

    def __init__(self, select: str | Selector, *, options: Mapping[str, Any], floor: int, seed: int) -> None:
        given = {name: _selector(value) if name == "select" else value for name, value in options.items()}
        chosen: Selector = select if not isinstance(select, str) else partial(load("select", select), **given)
        if floor:
            from datadiet.selectors.quotas import with_floor

            chosen = with_floor(chosen, floor)
        self._select = chosen
        needs: set[str] = set()
        self._takes: set[str] = set()
        self.takes_turns = False
        for method, own in selectors_in(select, options):  # what one inside goes by, the outer one passes on
            with_option = method.facts.get("needs_with", {})
            lacks = {*method.needs, *(need for option, need in with_option.items() if own.get(option))} - set(own)
            needs |= lacks
            self._takes |= (set(method.options) - set(own)) | lacks
            self.takes_turns |= "takes_turns" in method.traits
        self._gives_places = "groups" in needs
        self._takes |= {"turns"} if self.takes_turns else set()
        self.takes_entropy = "entropy" in needs
        self.needs = tuple(sorted((needs | ({"groups"} if floor else set())) & set(_MISSING)))
        self._seed = seed

    def check(self, context: SelectorContext) -> None:
        """Refuse to choose without what the selector needs.

        Raises:
            ArgumentError: Names what is missing, and where it comes from; or how many rows have no class (-100).
        """
        for name in self.needs:
            if name != "recalls" and getattr(context, name) is None:
                raise ArgumentError(_MISSING[name])
        if context.groups is None or "groups" not in self.needs:
            return
        without = int(np.count_nonzero(context.groups == IGNORED))
        if without and without == len(context.groups):
            raise ArgumentError(_MISSING["groups"])
        if without and self._gives_places:
            raise ArgumentError(
                f"this selector gives each class its places, and {without} rows have no class ({IGNORED}). Leave them "
                "out of the data, or give them a class of their own in groups=."
            )

    def choose(
        self, values: NDArray[np.float32], count: int, *, epoch: int, context: SelectorContext = SelectorContext()
    ) -> Selection:
        """Rows by their values.

        Args:
            values: float32 `(n,)`, larger = harder; +inf = never seen.
            count: How many, exactly.
            epoch: The first that trains on them.
            context: What the selector may go by beside the values.

        Returns:
            Exactly `count` rows, with loss weights where the selector gives them.

        Raises:
            ArgumentError: If the selector needs recalls, and no dev split has been evaluated.
        """
        if "recalls" in self.needs and context.recalls is None:
            raise ArgumentError(_MISSING["recalls"])
        extra = {name: getattr(context, name) for name in _FROM_CONTEXT}
        options = {name: extra[name] for name in extra if name in self._takes}
        return self._select(values, count, seed=self._seed, epoch=epoch, groups=context.groups, **options)

    def draw(self, number: int, count: int, *, epoch: int) -> Rows:
        """Rows at random, int64 `(count,)`, of so many: where nothing is recorded of them yet."""
        random: Selector = load("select", "random")
        return random(np.zeros(number), count, seed=self._seed, epoch=epoch).rows


_FROM_CONTEXT = ("features", "recalls", "scale", "turns", "entropy", "texts")
_MISSING = {
    "groups": "floor and quotas need the class of each example; this data set has no such column (regression?). Give "
    "groups=, an int64 array with the class of each training row.",
    "features": "this selector needs features: an array with one line per training row, such as sentence embeddings.",
    "recalls": "this selector needs the recall of each class on the dev split, and no dev split has been judged yet.",
    "texts": "this selector needs the text of each row, which training does not give it: choose once, with datadiet "
    "select or texts=.",
}


def _selector(value: object) -> object:
    """A selector inside another one may be given by its name, with options of its own."""
    if not isinstance(value, str):
        return value
    name, options = parse_call(value)
    return partial(load("select", name), **options) if options else load("select", name)


def selector_of(options: DietOptions, rule: str | None = None) -> BoundSelector:
    """The selector of a diet, with its options and the seed; of `auto`, that of a rule, `cover` by default."""
    if options.race is not None:
        name, own = parse_call(RULES[rule or COVER].select)
        return BoundSelector(name, options=own, floor=options.config.floor, seed=options.config.seed)
    own = {} if options.in_batch else dict(options.select_options)
    if isinstance(options.offset, float) and options.offset:
        own["offset"] = options.offset
    inside = selectors_in(options.select, own)
    if any(method.name == "seta" and "every" not in given for method, given in inside):  # its window moves every time
        own.setdefault("every", options.refresh_every)
    select = "random" if options.in_batch else options.select
    return BoundSelector(select, options=own, floor=options.config.floor, seed=options.config.seed)


@dataclass(frozen=True)
class Candidate:
    """What a rule would train on in a cycle.

    Attributes:
        epoch: The first that trains on it.
        rows: int64, of the whole set.
        chosen: The same among the rows of the pool, with the weights of their losses.
        pool: int64, the rows that were chosen from; None for all.
        turns: How often each row has had its turn before; None where no rule goes by it.
    """

    epoch: int
    rows: Rows
    chosen: Selection
    pool: Rows | None
    turns: Turns | None

    def plan(self, round: int) -> EpochPlan:
        """The plan of its epoch, with the weights of the selector alone; `round` is that of the values it goes by."""
        return EpochPlan(self.epoch, self.rows, full=False, round=round, weights=self.chosen.weights)


class Chooser:
    """The selector of a diet, or that of each rule of `auto`, and how often each row has had its turn.

    Args:
        options: Of the diet.
        context: What the data set gives the selectors to go by.
        num_rows: Training rows.

    Attributes:
        needs_recalls: Whether a selector needs the recall of each class.

    Raises:
        ArgumentError: If the context lacks what a selector needs, or a selector of classes finds rows without one.
    """

    def __init__(self, options: DietOptions, context: SelectorContext, num_rows: int) -> None:
        rules = (None,) if options.race is None else tuple(RULES)
        selectors = [selector_of(options, rule) for rule in rules]
        for selector in selectors:
            selector.check(context)
        self.needs_recalls = any("recalls" in selector.needs for selector in selectors)
        self._options, self._num_rows = options, num_rows
        self._turns = Turns.none(num_rows) if any(selector.takes_turns for selector in selectors) else None

    def draw(self, rule: str | None, count: int, *, epoch: int) -> Rows:
        """Rows at random, int64 `(count,)`, where nothing is recorded of them yet; they have had their turn."""
        drawn = selector_of(self._options, rule).draw(self._num_rows, count, epoch=epoch)
        if self._turns is not None:
            self._turns = self._turns.after(Selection(drawn))
        return drawn

    def propose(
        self,
        values: NDArray[np.float32],
        pool: NDArray[np.bool_] | None,
        count: int,
        epoch: int,
        rule: str | None,
        context: SelectorContext,
        *,
        begins: bool = False,
    ) -> Candidate:
        """What a rule would train on; its rows have no turn until `take`.

        Args:
            values: float32, of the rows of the pool; larger = harder, +inf = never seen.
            pool: bool `(num_rows,)`, the rows that it may choose from; None for all.
            count: How many, exactly.
            epoch: The first that trains on them.
            rule: Of `auto`; None for any other selector.
            context: Of all rows, without turns.
            begins: Whether the rule, one of `auto`, has given no turns yet.

        Raises:
            ArgumentError: If the selector needs recalls, and no dev split has been evaluated.
        """
        selector = selector_of(self._options, rule)
        turns = Turns.none(self._num_rows) if begins else self._turns
        context = replace(context, turns=turns if selector.takes_turns else None)
        chosen = selector.choose(values, count, epoch=epoch, context=context if pool is None else context.of(pool))
        del values  # of millions of rows, these and their numbers are not held at once
        free = None if pool is None else np.flatnonzero(pool)
        return Candidate(epoch, chosen.rows if free is None else free[chosen.rows], chosen, free, turns)

    def take(self, candidate: Candidate) -> None:
        """Count the turns of a candidate, which then trains; in place, so once."""
        turns = candidate.turns
        self._turns = None if turns is None else turns.after(candidate.chosen, candidate.pool, in_place=True)

    def state(self) -> dict[str, NDArray[Any]]:
        """The turns as arrays; empty where no selector goes by them."""
        return {} if self._turns is None else {_VISITS: self._turns.visits, _EXPECTED: self._turns.expected}

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take up what `state` gave, among other arrays."""
        if self._turns is not None:
            self._turns = replace(self._turns, visits=np.array(arrays[_VISITS]), expected=np.array(arrays[_EXPECTED]))


def rehearse(options: DietOptions, num_examples: int, schedule: BaseSchedule, groups: NDArray[np.int64] | None) -> None:
    """Choose once by made-up values: what depends on the data is refused before anything has been trained.

    The declared options are checked by then; this finds an offset that leaves too few rows, shares that do not sum to
    1, or classes that do not exist. Selectors that cover a space are left out, since they take long.

    Args:
        options: Of the diet, with class numbers for class names.
        num_examples: Training rows.
        schedule: Of the run.
        groups: int64 `(num_examples,)`, the class of each row; None where there are no classes.

    Raises:
        ArgumentError: By the selector, about its options.
    """
    selector = selector_of(options)
    if not options.plans or "features" in selector.needs or not isinstance(options.select, str):
        return
    epochs = [epoch for epoch in range(schedule.epochs) if not schedule.is_full(epoch)]
    count = schedule.count(epochs[0]) if epochs else schedule.in_batches(num_examples // 2)
    recalls = None if groups is None else dict.fromkeys(np.unique(groups).tolist(), 0.5)
    values = np.linspace(0, 1, num_examples, dtype=np.float32)
    selector.choose(values, count, epoch=0, context=SelectorContext(groups, recalls=recalls, entropy=values))


# ---- what a caller gives for each row ----


def numbers_per_row(name: str, given: ArrayLike, num_rows: int, dtype: DTypeLike = np.float32) -> NDArray[Any]:
    """What a caller gave for each row, as numbers `(num_rows,)`.

    Raises:
        ArgumentError: If it is anything else: text, a table, a mapping, fractions where whole numbers are needed.

    Examples:
        >>> numbers_per_row("groups", [1, 0, 1], 3, np.int64)
        array([1, 0, 1])
        >>> numbers_per_row("groups", ["no", "yes"], 2, np.int64)
        Traceback (most recent call last):
        datadiet.errors.ArgumentError: groups must be whole numbers, one per training row, 2, got text. Number the
        classes: np.unique(names, return_inverse=True)[1].
    """
    whole = np.issubdtype(dtype, np.integer)
    wanted = f"{name} must be {'whole ' if whole else ''}numbers, one per training row, {num_rows}, got"
    try:
        array = np.asarray(given)
        if array.dtype.kind == "O" and array.ndim == 1:  # such as None for a number that is missing, or mixed types
            array = np.asarray(given, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise ArgumentError(f"{wanted} something that is no list of numbers ({type(given).__name__}).") from None
    if array.shape != (num_rows,):
        raise ArgumentError(f"{wanted} the shape {array.shape}.")
    if array.dtype.kind in "US":
        hint = " Number the classes: np.unique(names, return_inverse=True)[1]." if whole else ""
        raise ArgumentError(f"{wanted} text.{hint}")
    fits = array.dtype.kind in "biuf"
    if fits and whole and array.dtype.kind == "f":
        fits = bool(((np.floor(array) == array) & (np.abs(array) < 2**63)).all())
    if not fits:
        raise ArgumentError(f"{wanted} {array.dtype} with {quoted(array[:3].tolist())}, ...")
    return array if whole and array.dtype.kind in "iu" else array.astype(dtype, copy=False)


def check_ids(ids: Any, num_rows: int) -> None:
    """Refuse ids that are not one per row.

    Raises:
        ArgumentError: If there are more or fewer, or it is one text, a number or a mapping.
    """
    if isinstance(ids, (str, bytes, Mapping)) or not (hasattr(ids, "__len__") and hasattr(ids, "__getitem__")):
        raise ArgumentError(f"ids must be a list, one per training row, {num_rows}: got {quoted(ids)}.")
    if len(ids) != num_rows:
        raise ArgumentError(f"ids must be one per training row, {num_rows}: got {len(ids)}.")


def checked_values(values: NDArray[np.float32], num_examples: int) -> NDArray[np.float32]:
    """One number per training row.

    Raises:
        ArgumentError: If there are more or fewer, or some are not finite: names the first.
    """
    array = numbers_per_row("values", values, num_examples)
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        raise ArgumentError(f"values must be finite: {bad.size} are not, the first in row {int(bad[0])}.")
    return array


def checked_row_weights(weights: ArrayLike | None, num_rows: int) -> NDArray[np.float32] | None:
    """Loss weights of the rows; None where all are alike, so that nothing is multiplied.

    Raises:
        ArgumentError: If there is not one for each row, or one is not finite and above 0.
    """
    if weights is None:
        return None
    array = numbers_per_row("row_weights", weights, num_rows)
    bad = np.flatnonzero(~(np.isfinite(array) & (array > 0)))
    if bad.size:
        negative = (
            " A negative weight would make the model worse at its row without a limit." if (array < 0).any() else ""
        )
        raise ArgumentError(
            f"row_weights must be finite and above 0; rows {bad[:5].tolist()} are not.{negative} Leave rows that must "
            "not train out of the data."
        )
    return None if num_rows == 0 or (array == array[0]).all() else array
