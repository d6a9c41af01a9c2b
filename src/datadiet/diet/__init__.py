"""The diet: its options, and the one stateful object of the library, which a run trains by."""

from datadiet.diet.diet import Diet
from datadiet.diet.options import RESCORE, Rescore

__all__ = ["RESCORE", "Diet", "Rescore"]
