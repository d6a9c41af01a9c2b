"""Text with separators: lines, quotes and headers."""

from __future__ import annotations

import csv
import io

import pytest

from datadiet.data.readers import read_csv, read_tsv


def test_the_line_of_a_csv_row_is_where_it_starts():
    table = read_csv(b'text,label\n"two\nlines",1\n\nnext,0\n', "train.csv")
    assert [table.number(row) for row in range(2)] == [2, 5]
    assert table.columns["text"] == ["two\nlines", "next"]


def test_a_byte_order_mark_is_no_part_of_the_header():
    assert list(read_csv("\ufefftext,label\na,1\n".encode(), "train.csv").columns) == ["text", "label"]


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ('"an open quote', '"an open quote'),
        ('"a sentence in quotes"', '"a sentence in quotes"'),
        ('"he said ""hi"" to me"', 'he said "hi" to me'),
        ('"two" quoted "words"', '"two" quoted "words"'),
        ('""', '""'),
    ],
)
def test_quotes_in_tsv_are_characters_unless_a_writer_doubled_them(cell, text):
    assert read_tsv(f"text\tlabel\r\n{cell}\t1\r\n".encode(), "x.tsv").columns["text"] == [text]


def test_a_tsv_with_a_quoted_header_follows_the_csv_rules():
    file = io.StringIO()
    writer = csv.writer(file, delimiter="\t", quoting=csv.QUOTE_ALL)
    writer.writerows([["text", "label"], ["a\ttab and\na line", "1"]])
    assert read_tsv(file.getvalue().encode(), "x.tsv").columns == {"text": ["a\ttab and\na line"], "label": ["1"]}
