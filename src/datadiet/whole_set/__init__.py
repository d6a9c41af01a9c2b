"""Values of a whole training set at once, from what there is of it."""

from datadiet.whole_set.material import NEEDS, WHERE, Inputs, Material, Unseen, check_needs
from datadiet.whole_set.passes import PASSES, read_model
from datadiet.whole_set.values import WholeSet, embeddings_of, whole_set, whole_set_values

__all__ = [
    "NEEDS",
    "PASSES",
    "WHERE",
    "Inputs",
    "Material",
    "Unseen",
    "WholeSet",
    "check_needs",
    "embeddings_of",
    "read_model",
    "whole_set",
    "whole_set_values",
]
