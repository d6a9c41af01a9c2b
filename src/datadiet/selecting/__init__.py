"""A static selection: choose once, from a score file, what to train on."""

from datadiet.selecting.rows import REASONS, StaticSelection, select_rows, select_wished
from datadiet.selecting.wish import Wish, options_of, wish_problems

__all__ = ["REASONS", "StaticSelection", "Wish", "options_of", "select_rows", "select_wished", "wish_problems"]
