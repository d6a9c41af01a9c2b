"""Keys that repeat, found a range of hashes at a time, beside the same search in memory."""

from __future__ import annotations

import numpy as np
import pytest

from datadiet.corpus.exchange import keys_of, repeated, repeats_of, write_keys
from datadiet.data.duplicates import representatives


@pytest.mark.parametrize("range_rows", [1, 7, 1000])
@pytest.mark.parametrize("labelled", [False, True])
def test_repeats_are_those_of_the_search_in_memory(tmp_path, range_rows, labelled):
    rng = np.random.default_rng(range_rows)
    texts = [f"text {number}" for number in rng.integers(0, 40, 120)]
    labels = [f"label {number}" for number in rng.integers(0, 3, 120)] if labelled else None
    sizes, begin, files = (50, 0, 69, 1), 0, []
    places = []
    for part, size in enumerate(sizes):
        rows = np.arange(size) * 2  # blank lines between them
        own = None if labels is None else labels[begin : begin + size]
        files.append(tmp_path / f"{part}.npy")
        write_keys(files[-1], [keys_of(texts[begin : begin + size], rows, own)] if size else [])
        places += [(part, int(row)) for row in rows]
        begin += size
    found, ranges = {}, []
    for number, repeats in enumerate(repeated([*files, None], range_rows)):
        found |= {(part, row): (kept, kept_row) for part, row, kept, kept_row in repeats.tolist()}
        ranges.append(tmp_path / f"range-{number}.npy")
        np.save(ranges[-1], repeats)
    groups = representatives(texts, labels)
    expected = {places[row]: places[groups.of[row]] for row in groups.repeated.tolist()}
    assert found == expected
    of_parts = {(part, row): (k, kr) for part in range(5) for _, row, k, kr in repeats_of(ranges, part).tolist()}
    assert of_parts == expected


def test_nothing_repeats_in_nothing(tmp_path):
    write_keys(tmp_path / "a.npy", [])
    assert not list(repeated([tmp_path / "a.npy", None]))
