"""Data in: folders, files, saved and hub sets as validated, immutable splits. Imports neither torch nor pyarrow."""

from datadiet.data.load import load_data, read_examples
from datadiet.data.schema import Columns, Dataset, Examples

__all__ = ["Columns", "Dataset", "Examples", "load_data", "read_examples"]
