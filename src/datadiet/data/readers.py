"""Data files to tables, by their ending: jsonl, json, csv, tsv, parquet, txt, conll, and `seq.in` folders.

Readers take bytes, so that packaged and compressed files are read alike. The loops over lines are ours: the readers of
pandas and pyarrow guess types (dates, floats for integers with gaps), and report neither the line of a broken row nor
all broken rows at once.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from datadiet.data.columns import TEXTS, TOKENS
from datadiet.data.conversations import has_roles
from datadiet.data.layouts import plain_name
from datadiet.data.tables import (
    LazyColumns,
    Table,
    decoded,
    first_line,
    listed,
    not_utf8,
    numbered_problem,
    split_lines,
    text_lines,
)
from datadiet.data.tagging import looks_like_conll, parse_conll
from datadiet.errors import DataError, quoted
from datadiet.files import GZ_LIMIT, read_bytes


def read_jsonl(data: bytes, place: str, first: int = 1) -> Table:
    """One JSON object a line; blank lines are skipped.

    Args:
        data: Of the file, or of whole lines of it.
        place: The file as the user knows it.
        first: The number of the first line.

    Raises:
        DataError: For broken lines, all in one sentence.

    Examples:
        >>> read_jsonl(b'{"text": "good"}', "train.jsonl").columns
        {'text': ['good']}
    """
    cells: dict[str, tuple[array[int], list[Any]]] = {}  # rows and values of each column
    lines: list[int] = []
    broken = []
    for number, line in _numbered_lines(data, place, first):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            broken.append((number, f"not valid JSON ({_reason(error)})"))
            continue
        if not isinstance(row, dict):
            broken.append((number, f"expected an object such as {{...}}, found {type(row).__name__}"))
            continue
        for name, value in row.items():
            if (column := cells.get(name)) is None:
                column = cells[name] = (array("q"), [])
            column[0].append(len(lines))
            column[1].append(value)
        lines.append(number)
    if broken:
        if first == 1 and (form := _form(data)):
            raise DataError(f"{place}: {form}")
        raise DataError(numbered_problem(place, "line", broken, "mend the line or remove it"))
    if first == 1 and len(lines) == 1 and (form := _form(data, whole=False)):
        raise DataError(f"{place}: {form}")
    return Table(place, LazyColumns(cells, lambda name: _filled(*cells[name], len(lines))), len(lines), lines)


def _filled(rows: Sequence[int], values: list[Any], size: int) -> list[Any]:
    """The values of a column; None in rows that lack it. Made when needed: many rare keys have few values."""
    if len(values) == size:
        return values
    column = [None] * size
    for row, value in zip(rows, values, strict=True):
        column[row] = value
    return column


def _reason(error: Exception) -> str:
    """Why text is no JSON."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return str(error) if isinstance(error, json.JSONDecodeError) else "it holds a number of thousands of digits"


_LINES = "write one object a line: in pandas DataFrame.to_json(FILE, orient='records', lines=True)."


def _form(data: bytes, *, whole: bool = True) -> str:
    """What a file of valid JSON holds that is not an object a line, with the remedy; empty for any other file.

    Args:
        data: Of the file.
        whole: Whether the file has several lines: an object on one line may be a row.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return ""
    if isinstance(value, list):
        return f"one JSON array, and not an object a line: call the file .json, or {_LINES}"
    if not isinstance(value, dict) or not value:
        return ""
    keys, values = listed(list(value), 4), list(value.values())
    texts = [held for name, held in value.items() if plain_name(name) in TEXTS]
    words = [name for name in value if plain_name(name) in TOKENS]
    if {"columns", "index", "data"} <= value.keys():
        return f"one JSON object with columns, index and data, as pandas writes with orient='split': {_LINES}"
    if len(values) > 1 and all(isinstance(held, dict) for held in values):
        return f"one JSON object of columns ({keys}) with their rows by number, as DataFrame.to_json() writes: {_LINES}"
    if all(isinstance(held, list) for held in values) and (texts or whole):
        return f"one JSON object of columns ({keys}), each with a list of its rows: {_LINES}"
    rows = [name for name, held in value.items() if isinstance(held, list) and held and isinstance(held[0], dict)]
    if not whole and any(has_roles(value[name][0]) for name in rows):
        return ""  # one row of messages
    if rows and not texts and not words:
        return f"one JSON object ({keys}) with the rows under {rows[0]!r}: {_LINES}"
    return f"one JSON object ({keys}) over several lines, and not an object a line: {_LINES}" if whole else ""


def _numbered_lines(data: bytes, place: str, first: int = 1) -> Iterator[tuple[int, str]]:
    """Lines with their numbers, decoded one by one: splitting a whole decoded file takes several times its size."""
    # lines of bytes end at \n alone; JSON strings may hold other separators such as U+2028
    for number, line in enumerate(io.BytesIO(data), start=first):
        try:
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8").removesuffix("\n")
        except UnicodeDecodeError as error:
            raise DataError(not_utf8(place, number)) from error


def read_json(data: bytes, place: str) -> Table:
    """JSON lines, or one array of objects.

    Raises:
        DataError: If it is neither.
    """
    text = decoded(data, place)
    if not text.lstrip().startswith("["):
        return read_jsonl(data, place)
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: not valid JSON ({_reason(error)}); mend the file.") from error
    odd = [
        (number, f"expected an object, found {type(row).__name__}")
        for number, row in enumerate(rows, start=1)
        if not isinstance(row, dict)
    ]
    if odd:
        raise DataError(numbered_problem(place, "row", odd, "mend the row or remove it"))
    names = dict.fromkeys(name for row in rows for name in row)
    return Table(place, LazyColumns(names, lambda name: [row.get(name) for row in rows]), len(rows))


def read_csv(data: bytes, place: str, delimiter: str = "") -> Table:
    """A header, then rows; a quoted cell is closed by a quote before a separator or a line's end (RFC 4180).

    A row's line is the one it starts on.

    Args:
        data: Of the file.
        place: The file as the user knows it.
        delimiter: Between the cells; by default the comma, or where the header has none, `;` or a tab.

    Raises:
        DataError: For quotes that do not pair, and for rows whose number of fields differs from the header's.
    """
    text = decoded(data, place)
    separator = delimiter or _separator(text)
    rows = _quoted_rows(text, separator, place)
    table = _with_header([(number, fields) for number, fields in rows if fields], place)
    swallowed = _swallowed(rows, text, separator)
    if swallowed:
        raise DataError(numbered_problem(place, "line", swallowed, _QUOTES))
    note = f"The columns are separated by {separator!r}, not by commas."
    return replace(table, notes=(note,)) if separator != (delimiter or ",") else table


_QUOTES = "mend the quotes (a quote inside a quoted cell is doubled), or save the data as jsonl"
_Rows = list[tuple[int, list[str]]]


def _separator(text: str) -> str:
    """Of a csv file: what its header has."""
    header = text.partition("\n")[0]
    return next((sign for sign in (",", ";", "\t") if sign in header), ",")


def _quoted_rows(text: str, separator: str, place: str) -> _Rows:
    """The cells of each row with the line that it starts on.

    Raises:
        DataError: For a quote that is not closed, or is closed inside a cell.
    """
    # `a, "b"`: the blank before the quote is not a part of the cell, and the quotes are none either
    spaced = re.search(rf'(^|{re.escape(separator)}) +"', text, re.MULTILINE) is not None
    rows: _Rows = []
    before, start = csv.field_size_limit(2**31 - 1), 1
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True, skipinitialspace=spaced)
        for fields in reader:
            rows.append((start, fields))
            start = reader.line_num + 1
    except csv.Error as error:
        reason = "opens a quote that nothing closes" if "unexpected end" in str(error) else _quote_reason(error)
        raise DataError(numbered_problem(place, "line", [(start, reason)], _QUOTES)) from error
    finally:
        csv.field_size_limit(before)
    return rows


def _quote_reason(error: csv.Error) -> str:
    if "expected after" in str(error):
        return "a quoted cell goes on after its closing quote, on this line or a later one"
    return f"cannot be read as csv ({error})"


def _swallowed(rows: _Rows, text: str, separator: str) -> list[tuple[int, str]]:
    """Rows over several lines that are rows of the file, by the line on which they begin: two stray quotes pair.

    Each of their lines has as many fields as the header, and in some column a value as other rows have there: the same,
    or a whole number among whole numbers.
    """
    if not rows:
        return []
    width = len(rows[0][1])
    ends = [*(number for number, _ in rows[1:]), 0]
    long = [(number, end - 1) for (number, _), end in zip(rows, ends, strict=True) if end - number > 1]
    if text.count("\n") >= rows[-1][0]:  # the last row may be long too
        long.append((rows[-1][0], text.count("\n") + 1))
    if width < 2 or not long:
        return []
    lines = text.split("\n")
    known = [{fields[place] for number, fields in rows[1:] if len(fields) == width} for place in range(width)]
    numbers = [all(value.strip().isdecimal() for value in values) for values in known]
    wrong = []
    for number, end in long:
        cut = [line.rstrip("\r").replace('"', "").split(separator) for line in lines[number - 1 : end] if line.strip()]
        if len(cut) < 2 or any(len(fields) != width for fields in cut):
            continue
        if any(
            all(fields[place] in known[place] or (numbers[place] and fields[place].isdecimal()) for fields in cut)
            for place in range(width)
        ):
            wrong.append((number, "opens a quote that is closed some lines below: the lines between look like rows"))
    return wrong


def read_tsv(data: bytes, place: str) -> Table:
    r"""A header, then rows; quotes are ordinary characters, as in GLUE's files, where they stand unpaired.

    The quotes around a field are removed only where a csv writer must have added them: the field holds quotes, and all
    of them are doubled. A header in quotes means that every field is quoted, and the csv rules apply.

    Raises:
        DataError: For rows whose number of fields differs from the header's.

    Examples:
        >>> read_tsv(b'text\tlabel\n"a stray quote\t1', "train.tsv").columns
        {'text': ['"a stray quote'], 'label': ['1']}
    """
    text = decoded(data, place)
    header = text.partition("\n")[0]
    if "\t" not in header and "," in header:
        return replace(read_csv(data, place, ","), notes=("The columns are separated by commas, not by tabs.",))
    if '"' in header:
        return read_csv(data, place, delimiter="\t")
    lines = ((number, line.removesuffix("\r")) for number, line in enumerate(split_lines(text), start=1))
    return _with_header([(number, [_unquoted(f) for f in line.split("\t")]) for number, line in lines if line], place)


def _unquoted(field: str) -> str:
    if len(field) < 4 or field[0] != '"' or field[-1] != '"':
        return field
    pairs_removed = field[1:-1].replace('""', "")
    must_be_quoted = '"' not in pairs_removed and len(pairs_removed) < len(field) - 2
    return field[1:-1].replace('""', '"') if must_be_quoted else field


def _with_header(rows: Sequence[tuple[int, list[str]]], place: str) -> Table:
    if not rows:
        return Table(place, {}, 0, [], textual=True)
    (_, header), *body = rows
    names = [name.strip() for name in header]
    times = Counter(names)
    repeated = sorted(name for name in times if name and times[name] > 1)
    if repeated:
        raise DataError(f"{place}, line {rows[0][0]}: the header names {listed(repeated)} twice; rename one of them.")
    uneven = [(n, f"the header has {len(names)} columns, this row {len(f)}") for n, f in body if len(f) != len(names)]
    if uneven:
        remedy = "quote what holds a separator (csv) or save the data as jsonl"
        raise DataError(numbered_problem(place, "line", uneven, remedy))
    cells = list(zip(*(fields for _, fields in body), strict=True)) or [()] * len(names)
    # one column without a name holds the row numbers that pandas writes; several without a name are dropped
    columns = {name: list(values) for name, values in zip(names, cells, strict=True) if name or times[name] == 1}
    return Table(place, columns, len(body), [number for number, _ in body], textual=True)


def read_parquet(data: bytes, place: str) -> Table:
    """A Parquet file; class numbers become the names that `datasets` has written into its metadata.

    Raises:
        DataError: If it is not a Parquet file. The table raises it for a column that cannot be read, when it is used.
    """
    file = open_parquet(data, place)
    metadata, rows = file.schema_arrow.metadata or {}, file.metadata.num_rows

    def column(name: str) -> list[Any]:
        values = arrow_values(lambda: file.read(columns=[name])[name], name, metadata, place)
        if len(values) != rows:
            raise DataError(f"{place}, column {quoted(name)}: {len(values)} values for {rows} rows; write it again.")
        return values

    return Table(place, LazyColumns(file.schema_arrow.names, column), rows)


def open_parquet(data: bytes, place: str) -> Any:
    """A `pyarrow.parquet.ParquetFile` whose schema can be read.

    Raises:
        DataError: If it is not a Parquet file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        file.schema_arrow.names  # noqa: B018  (decodes them)
    except Exception as error:  # pyarrow raises errors of many types; the cause stays in the chain
        raise DataError(f"{place}: not a readable Parquet file ({first_line(error)}); write it again.") from error
    return file


def arrow_values(read: Callable[[], Any], name: str, metadata: Mapping[bytes, bytes], place: str) -> list[Any]:
    """The values of a column of Arrow's; class numbers as the names in the metadata of the `datasets` library.

    Args:
        read: Gives the column.
        name: Of the column.
        metadata: Of the schema.
        place: As the user knows it, for messages.

    Raises:
        DataError: If there are two columns of the name, or Python has no such values: dates after the year 9999,
            unknown time zones, text that is not UTF-8.
    """
    try:
        column = read()
        values: list[Any] = column.to_pylist()
    except Exception as error:  # as above
        reason = "text that is not UTF-8" if isinstance(error, UnicodeDecodeError) else first_line(error)
        raise DataError(f"{place}, column {quoted(name)}: cannot be read ({reason}); write it again.") from error
    if not _holds_numbers(column.type) or (names := class_names(metadata, name, place)) is None:
        return values
    return decode_classes(values, names)


def _holds_numbers(kind: Any) -> bool:
    """Whether an Arrow type is integers, or lists of them."""
    import pyarrow.types as kinds

    while any(test(kind) for test in (kinds.is_list, kinds.is_large_list, kinds.is_fixed_size_list)):
        kind = kind.value_type
    return bool(kinds.is_integer(kind))


def class_names(metadata: Mapping[bytes, bytes], column: str, place: str) -> list[str] | None:
    """The class names of a column, from the schema metadata that the `datasets` library writes; None without any.

    Raises:
        DataError: If the metadata are broken: the numbers would stand for the classes.
    """
    try:
        info = json.loads(metadata.get(b"huggingface", b"{}")).get("info") or {}
        feature = (info.get("features") or {}).get(column)
        if isinstance(feature, list) and len(feature) == 1:  # as older versions write a list
            feature = feature[0]
        while isinstance(feature, dict) and isinstance(feature.get("feature"), dict):
            feature = feature["feature"]
        names = feature.get("names") if isinstance(feature, dict) else None
    except (ValueError, RecursionError, AttributeError) as error:  # AttributeError: of another form
        names = error
    if not names:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(
            f"{place}, column {quoted(column)}: the class names in the metadata of `datasets` cannot be read; "
            "write the file again, with names in place of numbers."
        )
    return names


def decode_classes(values: Sequence[Any], names: Sequence[str]) -> list[Any]:
    """Class numbers, or lists of them, as names; a number without a class (-1) becomes None.

    Examples:
        >>> decode_classes([1, -1, [0, 1]], ["no", "yes"])
        ['yes', None, ['no', 'yes']]
    """
    by_number = dict(enumerate(names))

    def decoded(value: Any) -> Any:
        if isinstance(value, list):
            return [decoded(item) for item in value]
        return by_number.get(value) if isinstance(value, int) else value

    return [decoded(value) for value in values]


_Reader = Callable[[bytes, str], Table]


def read_txt(data: bytes, place: str) -> Table:
    """One text a line, as the column `text`; empty lines at the end are dropped. CoNLL files are recognised."""
    lines = text_lines(data, place)
    if looks_like_conll(lines):
        return parse_conll(lines, place)
    return Table(place, {"text": lines}, len(lines), range(1, len(lines) + 1))


def read_texts(data: bytes, place: str, first: int = 1) -> Table:
    r"""One text a line, blank lines aside: whole lines of a file of texts, the first of which has a number.

    Examples:
        >>> read_texts(b"one\n\ntwo\n", "a.txt", first=7).lines
        [7, 9]
    """
    filled = [(n, line.strip("\r")) for n, line in _numbered_lines(data, place, first) if line.strip()]
    return Table(place, {"text": [line for _, line in filled]}, len(filled), [number for number, _ in filled])


def read_conll(data: bytes, place: str) -> Table:
    """A word and its tag on each line, blank lines between sentences; see `parse_conll`."""
    return parse_conll(text_lines(data, place), place)


def read_seq_folder(folder: Path) -> Table:
    """The `seq.in` / `seq.out` / `label` layout: words and tags separated by spaces, one example a line.

    Raises:
        DataError: If `seq.in` is missing or the files differ in length.
    """
    place = str(folder / "seq.in")
    parts = {"tokens": "seq.in", "slots": "seq.out", "intent": "label"}
    paths = {column: folder / file for column, file in parts.items() if column == "tokens" or (folder / file).exists()}
    lines = {column: text_lines(read_bytes(path), str(path)) for column, path in paths.items()}
    sizes = {parts[column]: len(part) for column, part in lines.items()}
    if len(set(sizes.values())) > 1:
        counts = ", ".join(f"{file} {size}" for file, size in sizes.items())
        raise DataError(
            f"{folder}: the files must have one line per example, found {counts} lines; complete the shorter."
        )
    columns: dict[str, list[Any]] = dict(lines)
    for name in lines.keys() - {"intent"}:
        columns[name] = [[word for word in re.split("[ \t]+", line) if word] for line in lines[name]]
    return Table(place, columns, len(lines["tokens"]), range(1, len(lines["tokens"]) + 1), textual=True)


FORMATS: Mapping[str, _Reader] = {
    "jsonl": read_jsonl,
    "json": read_json,
    "csv": read_csv,
    "tsv": read_tsv,
    "parquet": read_parquet,
    "conll": read_conll,
    "iob": read_conll,
    "iob2": read_conll,
    "bio": read_conll,
}


def split_name(file: str) -> tuple[str, str] | None:
    """A data file's stem and format, or None for another kind of file.

    Examples:
        >>> split_name("train.jsonl.gz"), split_name("model.gz")
        (('train', 'jsonl'), None)
    """
    stem, _, kind = file.lower().removesuffix(".gz").rpartition(".")
    packed_parquet = kind == "parquet" and file.lower().endswith(".gz")
    return (stem, kind) if stem and (kind in FORMATS or kind == "txt") and not packed_parquet else None


def read_file(path: Path, gz_limit: float = GZ_LIMIT) -> Table:
    """Read one data file by its ending.

    Args:
        path: The file.
        gz_limit: Largest size in GB that a compressed file may unpack to.

    Raises:
        DataError: If it cannot be read, or has an unknown ending.
    """
    if split_name(path.name) is None:
        allowed = ", ".join(f".{kind}" for kind in (*FORMATS, "txt"))
        raise DataError(f"{path}: unknown kind of file; allowed: {allowed}, the text ones also with .gz.")
    return read_named(read_bytes(path), path.name, str(path), gz_limit)


def read_named(data: bytes, file: str, place: str, gz_limit: float = GZ_LIMIT) -> Table:
    """Read the content of a data file whose name has a known ending."""
    data, kind = unpacked(data, file, place, gz_limit)
    return (read_txt if kind == "txt" else FORMATS[kind])(data, place)


def unpacked(data: bytes, file: str, place: str, gz_limit: float = GZ_LIMIT) -> tuple[bytes, str]:
    """The content without its compression, and its format.

    Raises:
        DataError: If it is not a complete gzip file, or unpacks to more than the limit.

    Examples:
        >>> unpacked(gzip.compress(b"{}"), "train.jsonl.gz", "train.jsonl.gz")
        (b'{}', 'jsonl')
    """
    kind = file.lower().removesuffix(".gz").rpartition(".")[2]
    if not file.lower().endswith(".gz"):
        return data, kind
    most = int(gz_limit * 10**9)
    try:
        content = gzip.GzipFile(fileobj=io.BytesIO(data)).read(most + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{place}: not a complete gzip file ({error}); compress it again.") from error
    if len(content) > most:
        raise DataError(f"{place} unpacks to more than {gz_limit:g} GB; if that is right, allow it with --gz-limit.")
    return content, kind
