"""Keys that repeat, found a range of hashes at a time, beside the same search in memory."""

from __future__ import annotations

import resource
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from datadiet.corpus.exchange import NearRows, keys_of, near_repeated, repeated, repeats_of, write_keys
from datadiet.data.duplicates import representatives, text_keys
from datadiet.data.load import load_data


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


def test_there_may_be_more_partitions_than_files_that_can_be_open(tmp_path):
    files = [tmp_path / f"{part}.npy" for part in range(300)]
    for part, path in enumerate(files):
        write_keys(path, [keys_of([f"text {part % 200}"], np.arange(1))])
    least, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, most))
    try:
        assert sum(len(repeats) for repeats in repeated(files)) == 100
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (least, most))


# ---- near duplicates


@pytest.fixture(scope="module")
def packaged() -> tuple[list[str], list[str]]:
    """Rows of the packaged set, with planted repeats and near repeats of other rows, and of other classes."""
    train = load_data("snips", "intent-slot").splits["train"]
    assert train.labels is not None
    texts, labels = list(train.texts)[:900], [str(label) for label in train.labels][:900]
    rng = np.random.default_rng(0)
    for row in rng.integers(0, 900, 150).tolist():
        texts.append(texts[row] + rng.choice(["", " ", " please", " now", "s"]))
        labels.append(labels[row] if row % 5 else "another")
    order = rng.permutation(len(texts))
    return [*(texts[row] for row in order), "", "?"], [*(labels[row] for row in order), "none", "none"]


def near_repeats(
    folder: Path, texts: list[str], labels: list[str] | None, cuts: list[int], near: float, at_once: int
) -> dict[int, int]:
    """The rows that repeat another, nearly so too, and the row that stays, of a corpus with these cuts."""
    homes: list[Path | None] = [None]
    places: dict[tuple[int, int], int] = {}
    bounds = [0, *cuts, len(texts)]
    for part, (begin, end) in enumerate(pairwise(bounds)):
        home, gathered, keys = folder / str(part), NearRows(near), []
        for start in range(begin, end, 128):
            some = slice(start, min(end, start + 128))
            rows = 3 * np.arange(some.start, some.stop)  # blank lines between them
            own, keyed = None if labels is None else labels[some], list(text_keys(texts[some]))
            gathered.add(keyed, rows, own)
            keys.append(keys_of(keyed, rows, own))
            places |= {(part + 1, int(row)): int(row) // 3 for row in rows}
        home.mkdir(parents=True)
        gathered.write(home)
        write_keys(home / "texts.npy", keys)
        homes.append(home)
    exact = []
    for number, repeats in enumerate(repeated([None if home is None else home / "texts.npy" for home in homes], 100)):
        exact.append(folder / f"exact-{number}.npy")
        np.save(exact[-1], repeats)
    (folder / "scratch").mkdir()
    found = list(near_repeated(homes, exact, near, folder / "scratch", at_once))
    return {places[part, row]: places[kept, at] for one in found for part, row, kept, at in one.tolist()}


@pytest.mark.parametrize(("near", "labelled"), [(0.8, True), (0.8, False), (0.6, True)])
@pytest.mark.parametrize(("parts", "at_once"), [(1, 1 << 20), (7, 400), (12, 1 << 20)])
def test_near_repeats_are_those_in_memory_however_the_rows_are_cut(tmp_path, packaged, near, labelled, parts, at_once):
    texts, labels = packaged
    cuts = np.sort(np.random.default_rng(parts).integers(0, len(texts), parts - 1)).tolist()
    groups = representatives(texts, labels if labelled else None, near=near)
    expected = {row: int(groups.of[row]) for row in groups.repeated.tolist()}
    found = near_repeats(tmp_path, texts, labels if labelled else None, cuts, near, at_once)
    assert found == expected
    exact = representatives(texts, labels if labelled else None)
    assert len(expected) > len(exact.repeated) + 40


def test_nothing_is_near_to_nothing(tmp_path):
    assert near_repeats(tmp_path, ["", "?", "one text"], None, [0, 0, 2], 0.5, 10) == {}
