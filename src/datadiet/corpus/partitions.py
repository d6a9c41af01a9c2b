"""Partitions of a corpus: how a folder of many files is cut, sealed and streamed in batches of rows with stable ids.

What a row is, is decided by the readers and checks of `datadiet.data`, a batch at a time.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from datadiet.data.columns import check_columns, recognise
from datadiet.data.export import Original
from datadiet.data.readers import arrow_values, read_jsonl, read_texts
from datadiet.data.schema import Columns, Examples
from datadiet.data.sources import is_saved, open_saved, split_table
from datadiet.data.tables import LazyColumns, Table, first_line, listed
from datadiet.data.validation import examples_from
from datadiet.errors import DataError, quoted
from datadiet.files import check_file, seal_of
from datadiet.registry import has

PART_BYTES = 64 << 20  # from which a file is cut into several partitions
BATCH_ROWS, BATCH_BYTES = 8192, 4 << 20
TEXT_KINDS, PACKED = ("jsonl", "txt"), ("gz", "zst")
ENDINGS = (".jsonl", ".txt", ".parquet", *(f".{kind}.{packed}" for kind in TEXT_KINDS for packed in PACKED))
_ABOUT = re.compile(r"(readme|licen[cs]e|notice|copying|changelog)([-_.].*)?\.txt", re.IGNORECASE)  # no documents
_PIECE = 1 << 20
_OPTIONAL = ("text_pair", "context", "system")  # columns that a row may lack
_SAVED = "saved"


@dataclass(frozen=True)
class Partition:
    """A part of a corpus that is read, scored and retried as one.

    Attributes:
        name: Its file below the corpus, and its number in the file where there are several.
        file: Below the corpus; the name of the split for a saved folder.
        kind: `jsonl`, `txt`, `parquet`, or `saved` for a folder of the `datasets` library.
        begin, end: Bytes of a text file, row groups of a Parquet file, rows of a saved split.
        first: Row in the file, from 0, of its first one; in text files blank lines count.
        size: About its bytes.
        seal: Size and checksum of its content.
        problem: Why it cannot be read, where that shows at once.
    """

    name: str
    file: str
    kind: str
    begin: int = 0
    end: int = 0
    first: int = 0
    size: int = 0
    seal: str = ""
    problem: str = ""

    @property
    def slug(self) -> str:
        """A name for files of it, the same however many partitions there are.

        Examples:
            >>> Partition("docs/a b.jsonl@1", "docs/a b.jsonl", "jsonl").slug
            'docs-a-b.jsonl-1-f851e314'
        """
        plain = re.sub(r"[^A-Za-z0-9._]+", "-", self.name).strip("-.")[-80:]
        return f"{plain}-{hashlib.sha256(self.name.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"


@dataclass(frozen=True)
class Corpus:
    """The partitions of a corpus, in order.

    Attributes:
        place: The folder.
        partitions: By the names of their files, then by their places in them.
        notes: Sentences the user should read once.
    """

    place: Path
    partitions: tuple[Partition, ...]
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of the set in results; never a path."""
        return self.place.resolve().name

    @property
    def fingerprint(self) -> str:
        """16 hex digits over the names and the seals of all partitions."""
        digest = hashlib.sha256(b"datadiet corpus 1")
        for part in self.partitions:
            digest.update(f"{part.name}\0{part.begin} {part.end}\0{part.seal}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Batch:
    """Some rows of a partition.

    Attributes:
        table: Of the rows; its `lines` are positions in the file, from 1.
        lines: Of the rows as they stand in a text file, without line ends; None for other kinds.
        arrow: The rows as a pyarrow table; None for text files.
    """

    table: Table
    lines: Sequence[bytes] | None = None
    arrow: Any = None

    def ids(self, file: str) -> list[str]:
        """The ids of rows that have none of their own: their file, and their row in it from 0."""
        return [f"{file}:{self.table.number(row) - 1}" for row in range(self.table.size)]

    def original(self) -> Original:
        """The rows with every column, uninterpreted."""
        names = tuple(self.table.columns)
        if self.arrow is not None:
            return Original(self.table.place, tuple(self.arrow.column_names), table=self.arrow)
        values = zip(*(self.table.columns[name] for name in names), strict=True)
        return Original(self.table.place, names, [dict(zip(names, row, strict=True)) for row in values])


# ---- the cut ----


def find_corpus(source: str | Path, *, part_bytes: int = PART_BYTES) -> Corpus:
    """The partitions of a folder of many files, or of a saved `datasets` folder.

    Every file is read once, for its checksum. A file that cannot be read is a partition with a problem.

    Args:
        source: The folder; folders below it count, what begins with `.` or `_` does not, nor do README.txt and others
            that tell of the corpus.
        part_bytes: From which a file is cut into several partitions; compressed text is never cut.

    Raises:
        DataError: If there is no such folder, or nothing in it that is read.
    """
    folder = Path(source).expanduser()
    if not folder.is_dir():
        raise DataError(f"there is no folder {quoted(str(source))}: a corpus is a folder of files.")
    if is_saved(folder):
        return Corpus(folder, *_of_saved(folder, part_bytes))
    shown = sorted(_names_below(folder))
    used = [name for name in shown if name.lower().endswith(ENDINGS) and not _ABOUT.fullmatch(name.rpartition("/")[2])]
    if not used:
        there = listed(shown, 5) or "nothing"
        raise DataError(f"{folder}: no file of a corpus; found {there}. Files end in {', '.join(ENDINGS)}.")
    aside = [name for name in shown if name not in set(used)]
    notes = (f"Files that are not used: {listed(aside, 5)}.",) if aside else ()
    return Corpus(folder, tuple(part for name in used for part in _of_file(folder, name, part_bytes)), notes)


def _names_below(folder: Path) -> Iterator[str]:
    """The files of a folder and of those below it, linked ones too; every real folder once, so that circles end."""

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror}).")

    seen = set()
    for here, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "_")))
        if (real := os.path.realpath(here)) in seen:
            folders.clear()
            continue
        seen.add(real)
        below = Path(here).relative_to(folder)
        yield from ((below / name).as_posix() for name in names if not name.startswith((".", "_")))


def _of_file(folder: Path, name: str, part_bytes: int) -> Iterator[Partition]:
    path = folder / name
    kind = next(part for part in name.lower().split(".")[:0:-1] if part not in PACKED)
    whole = Partition(name, name, kind)
    try:
        check_file(path)
        if kind == "parquet":
            cuts = list(_row_groups(path, part_bytes))
        elif name.lower().endswith(PACKED):
            size = path.stat().st_size
            cuts = [(0, size, 0, size, seal_of(path))]
        else:
            cuts = list(_line_ranges(path, part_bytes))
    except DataError as error:
        yield replace(whole, problem=error.problems[0])
        return
    except Exception as error:  # of the system, or of pyarrow, which raises many types
        yield replace(whole, problem=f"{path}: cannot be read ({first_line(error)}).")
        return
    for number, (begin, end, first, size, seal) in enumerate(cuts):
        own = name if len(cuts) == 1 else f"{name}@{number}"
        yield replace(whole, name=own, begin=begin, end=end, first=first, size=size, seal=seal)


_Cut = tuple[int, int, int, int, str]  # begin, end, first row, bytes, seal


def _line_ranges(path: Path, part_bytes: int) -> Iterator[_Cut]:
    """Ranges of whole lines of about so many bytes; the file is read once."""
    begin = position = first = lines = checksum = 0
    with path.open("rb") as stream:
        while piece := stream.read(_PIECE):
            used = 0
            while (cut := piece.find(b"\n", max(used, begin + part_bytes - position - 1))) >= 0:
                lines += piece.count(b"\n", used, cut + 1)
                checksum = zlib.crc32(memoryview(piece)[used : cut + 1], checksum)
                used = cut + 1
                end = position + used
                yield begin, end, first, end - begin, f"{end - begin} {checksum:08x}"
                begin, first, checksum = end, lines, 0
            lines += piece.count(b"\n", used)
            checksum = zlib.crc32(memoryview(piece)[used:], checksum)
            position += len(piece)
    if position > begin or not position:
        yield begin, position, first, position - begin, f"{position - begin} {checksum:08x}"


def _row_groups(path: Path, part_bytes: int) -> Iterator[_Cut]:
    """Ranges of row groups of about so many bytes."""
    import pyarrow.parquet as pq

    seal = seal_of(path)
    with pq.ParquetFile(path) as parquet:
        meta = parquet.metadata
        begin = first = rows = size = 0
        for group in range(meta.num_row_groups):
            rows, size = rows + meta.row_group(group).num_rows, size + meta.row_group(group).total_byte_size
            if size >= part_bytes or group == meta.num_row_groups - 1:
                yield begin, group + 1, first, size, seal
                begin, first, rows, size = group + 1, first + rows, 0, 0
        if not meta.num_row_groups:
            yield 0, 0, 0, 0, seal


def _of_saved(folder: Path, part_bytes: int) -> tuple[tuple[Partition, ...], tuple[str, ...]]:
    """The partitions of a split, and a note on the others."""
    splits = open_saved(folder)
    name = "train" if "train" in splits else next(iter(splits))
    if name != "train" and len(splits) > 1:
        raise DataError(f"{folder}: there is no train split; found {listed(sorted(splits))}. Save the one to score.")
    split = splits[name]
    sealed = hashlib.sha256()
    for path in sorted(folder.rglob("*.arrow")):
        sealed.update(f"{path.relative_to(folder).as_posix()} {seal_of(path)}\n".encode())
    size = max(1, int(split.data.nbytes))
    step = max(1, int(len(split) * part_bytes / size))
    parts = []
    for number, begin in enumerate(range(0, len(split), step)):
        end = min(len(split), begin + step)
        own, share = name if step >= len(split) else f"{name}@{number}", size * (end - begin) // len(split)
        parts.append(Partition(own, name, _SAVED, begin, end, begin, share, sealed.hexdigest()))
    aside = sorted(set(splits) - {name})
    return tuple(parts), (f"Splits that are not used: {listed(aside, 5)}.",) if aside else ()


# ---- the rows ----


def batches(corpus: Path, part: Partition) -> Iterator[Batch]:
    """The rows of a partition, some thousands at a time; a batch has at least one.

    Raises:
        DataError: If it cannot be read; names the file, and the line where there is one.
    """
    if part.problem:
        raise DataError(part.problem)
    read: Callable[[Path, Partition], Iterator[Batch]] = _text_batches
    if part.kind in ("parquet", _SAVED):
        read = _parquet_batches if part.kind == "parquet" else _saved_batches
    try:
        yield from (batch for batch in read(corpus, part) if batch.table.size)
    except DataError:
        raise
    except (OSError, EOFError, zlib.error, ValueError) as error:  # pyarrow's errors are among them
        place = corpus / part.file
        packed = " as a complete compressed file" if part.file.lower().endswith(PACKED) else ""
        raise DataError(f"{place}: cannot be read{packed} ({first_line(error)}); write it again.") from error


def _text_batches(corpus: Path, part: Partition) -> Iterator[Batch]:
    path = corpus / part.file
    read = read_jsonl if part.kind == "jsonl" else read_texts
    packed = part.file.lower().rpartition(".")[2] in PACKED
    left, number = sys.maxsize if packed else part.end - part.begin, part.first + 1
    with closing(_opened(path)) as stream:
        if part.begin:
            stream.seek(part.begin)
        while piece := stream.read(min(BATCH_BYTES, left)):
            piece += stream.readline() if len(piece) < left else b""
            left -= len(piece)
            lines = io.BytesIO(piece).readlines()
            for begin in range(0, len(lines), BATCH_ROWS):
                some = lines[begin : begin + BATCH_ROWS]
                table = read(b"".join(some), str(path), number)
                yield Batch(table, [some[line - number].rstrip(b"\r\n") for line in table.lines or ()])
                number += len(some)


def _opened(path: Path) -> Any:
    check_file(path)
    if path.name.lower().endswith(".gz"):
        return gzip.open(path, "rb")
    if path.name.lower().endswith(".zst"):
        import pyarrow as pa

        return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path)), "zstd"))
    return path.open("rb")


def _parquet_batches(corpus: Path, part: Partition) -> Iterator[Batch]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path, first = corpus / part.file, part.first
    with pq.ParquetFile(path) as parquet:
        metadata = parquet.schema_arrow.metadata or {}
        for rows in parquet.iter_batches(BATCH_ROWS, row_groups=list(range(part.begin, part.end))):
            table = pa.Table.from_batches([rows], parquet.schema_arrow)
            yield Batch(_of_arrow(table, metadata, str(path), first), arrow=table)
            first += table.num_rows


def _of_arrow(table: Any, metadata: Mapping[bytes, bytes], place: str, first: int) -> Table:
    def column(name: str) -> list[Any]:
        return arrow_values(lambda: table[name], name, metadata, place)

    numbers = range(first + 1, first + 1 + table.num_rows)
    return Table(place, LazyColumns(table.column_names, column), table.num_rows, numbers, numbered="row")


def _saved_batches(corpus: Path, part: Partition) -> Iterator[Batch]:
    split = open_saved(corpus)[part.file]
    for begin in range(part.begin, part.end, BATCH_ROWS):
        rows = split.select(range(begin, min(part.end, begin + BATCH_ROWS)))
        table = split_table(rows, f"{corpus}, {part.file}")
        numbers = range(begin + 1, begin + 1 + len(rows))
        arrow = rows.with_format("arrow")[:].cast(split.features.arrow_schema)
        yield Batch(replace(table, lines=numbers, numbered="row"), arrow=arrow)


# ---- examples ----


@dataclass(frozen=True)
class Reading:
    """How the rows of a corpus become examples, the same in every batch.

    Attributes:
        task: Its name.
        columns: Of the parts; an empty `id` for ids from file and row.
        separator: Between the labels of a text.
        group: A column that floors and quotas go by; None for the class.
    """

    task: str
    columns: Columns
    separator: str = "|"
    group: str | None = None

    def examples(self, part: Partition, batch: Batch) -> tuple[Examples, list[str] | None]:
        """The examples of a batch, and the group of each, as far as there is one.

        Raises:
            DataError: For all problems, with file and line.
        """
        names = [name for own in fields(Columns) if (name := getattr(self.columns, own.name))]
        table = replace(
            batch.table, columns=_with_missing(batch.table, [*names, *([self.group] if self.group else [])])
        )
        examples, problems = examples_from(table, self.task, self.columns, "required", self.separator)
        needed = {getattr(self.columns, own.name): own.name for own in fields(Columns) if own.name not in _OPTIONAL}
        lacking = [name for name in needed if name and name not in batch.table.columns]
        if problems.found and lacking:
            there = listed([*batch.table.columns])
            raise DataError(f"{table.place}: there is no column {listed(lacking)}; found {there}.")
        problems.raise_any(DataError)
        assert examples is not None  # nothing was wrong
        if not self.columns.id:
            examples = replace(examples, ids=tuple(batch.ids(part.file)))
        groups: list[str] | None = None
        if self.group is not None:
            groups = ["" if value is None else str(value) for value in table.columns[self.group]]
        elif has(self.task, "one_class") and examples.labels is not None:
            groups = [str(label) for label in examples.labels]
        return examples, groups


def _with_missing(table: Table, names: Sequence[str]) -> Mapping[str, Sequence[Any]]:
    """The columns, and empty ones for names that no row of this batch has: other batches may."""

    def column(name: str) -> Sequence[Any]:
        return table.columns[name] if name in table.columns else [None] * table.size

    return LazyColumns(dict.fromkeys((*table.columns, *names)), column)


def read_together(task: str) -> list[str]:
    """Why the rows of a task are not read partition by partition; nothing where they are.

    Examples:
        >>> read_together("classification")
        []
    """
    reasons = {"label_sets": "which labels there are", "tags_only": "by which scheme they are tagged"}
    return [
        f"the rows of a {task} set are read together, since they say {reason}: give one file, or the splits train and "
        "dev, as the data, and a file such as scores.parquet as --output."
        for trait, reason in reasons.items()
        if has(task, trait)
    ]


def reading_of(
    corpus: Corpus,
    task: str,
    columns: Columns,
    separator: str = "|",
    group: str | None = None,
    also: Sequence[str] = (),
) -> Reading:
    """How the rows are read, from the first batch that can be.

    Args:
        corpus: Of the rows.
        task: Its name; one whose rows can be read without the others.
        columns: The user's names.
        separator: Between the labels of a text.
        group: A column that floors and quotas go by.
        also: Other columns that must be there.

    Raises:
        DataError: If a column is missing, or no partition can be read.
    """
    if together := read_together(task):
        raise DataError(*together)
    problems = check_columns(columns, task)
    for part in corpus.partitions:
        try:
            batch = next(batches(corpus.place, part), None)
        except DataError as error:
            problems.include(error)
            continue
        if batch is None:
            continue
        names, wrong = recognise(batch.table, task, columns, labelled=True)
        there = [*batch.table.columns]
        for own in dict.fromkeys(name for name in (group, *also) if name is not None and name not in there):
            wrong.add(f"{batch.table.place}: there is no column {quoted(own)}; found {listed(there)}.")
        wrong.raise_any(DataError)
        return Reading(task, replace(names, id=names.id or ""), separator, group)
    if not problems.found:
        problems.add(f"{corpus.place}: there are no rows in it; fill it.")
    raise DataError(*problems.found[:5])


def texts_of(examples: Examples) -> list[tuple[str, str]]:
    """What duplicates have in common: the text and the second text of a pair, or the prompt and the answer."""
    from datadiet.data.conversations import answer_text
    from datadiet.data.duplicates import text_keys

    seconds = examples.text_pairs if examples.turns is None else [*map(answer_text, examples.turns)]
    return list(text_keys(examples.texts, seconds))
