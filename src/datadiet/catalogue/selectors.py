"""Selectors by rank and by chance."""

from __future__ import annotations

from datadiet.catalogue.method import ATTENDU, PAUL, RAJU, Method

SELECTORS: tuple[Method, ...] = (
    Method(
        "select",
        "hardest",
        "the `count` largest values; beware of noisy or ambiguous labels",
        "values, --offset",
        "O(n)",
        f"{PAUL}; refreshed: {ATTENDU}",
    ),
    Method(
        "select",
        "easiest",
        "the `count` smallest values",
        "values",
        "O(n)",
        "Sorscher et al. 2022, arXiv 2206.14486, section 2",
    ),
    Method(
        "select",
        "window",
        "skip the hardest share `offset` as suspected noise, then the `count` largest",
        "values, --offset",
        "O(n)",
        f"{PAUL}, section 4; {ATTENDU}",
    ),
    Method(
        "select",
        "random",
        "`count` uniformly, drawn again at every refresh: the baseline to beat",
        "nothing",
        "O(n), no scoring",
        RAJU,
    ),
    Method(
        "select",
        "epsilon",
        "(1 - epsilon) * count hardest, epsilon * count uniformly among the rest",
        "values, --epsilon",
        "O(n)",
        RAJU,
    ),
    Method(
        "select",
        "uncertain",
        "drawn without replacement, probability ~ q (1 - q) + 0.01, q = value / largest value, or rank",
        "values",
        "O(n)",
        "Chang et al. 2017, arXiv 1704.07433, section 3.2, with a floor",
    ),
)
