"""Columns are found by their usual names, and can be named."""

from __future__ import annotations

import pytest

from datadiet.data.columns import recognise
from datadiet.data.load import load_data
from datadiet.data.schema import Columns
from datadiet.data.tables import Table
from datadiet.errors import ArgumentError, DataError
from toys import commands, sentences

# the columns of well-known sets -> text|text pair|label|id
KNOWN = [
    ("CoLA, SST-2 on the hub", "classification", "sentence label idx", "sentence||label|idx"),
    ("MRPC, RTE on the hub", "classification", "sentence1 sentence2 label idx", "sentence1|sentence2|label|idx"),
    ("QNLI", "classification", "question sentence label idx", "question|sentence|label|idx"),
    ("QQP", "classification", "question1 question2 label idx", "question1|question2|label|idx"),
    ("QQP file", "classification", "id qid1 question1 question2 is_duplicate", "question1|question2|is_duplicate|id"),
    ("MNLI", "classification", "premise hypothesis label idx", "premise|hypothesis|label|idx"),
    (
        "MNLI file",
        "classification",
        "index sentence1 sentence2 label1 gold_label",
        "sentence1|sentence2|gold_label|index",
    ),
    ("MRPC file", "classification", "Quality|#1 ID|#1 String|#2 String", "#1 String|#2 String|Quality|"),
    ("BoolQ", "classification", "question passage answer", "question|passage|answer|"),
    ("SNLI", "classification", "id text_a text_b label", "text_a|text_b|label|id"),
    ("reviews", "classification", "Text Label", "Text||Label|"),
    ("utterances", "classification", "utterance intent guid", "utterance||intent|guid"),
    ("one half only", "classification", "text_a label", "text_a||label|"),
    ("STS-B", "regression", "genre sentence1 sentence2 score", "sentence1|sentence2|score|"),
    ("STS-B", "regression", "sentence1 sentence2 similarity_score", "sentence1|sentence2|similarity_score|"),
    ("label before score", "regression", "score label text", "text||label|"),
]


def table(names: list[str]) -> Table:
    return Table("train.csv", {name: ["x"] for name in names}, 1)


@pytest.mark.parametrize(("what", "task", "names", "expected"), KNOWN, ids=[f"{row[0]}-{row[1]}" for row in KNOWN])
def test_the_columns_of_known_sets_are_recognised(what, task, names, expected):
    found, problems = recognise(table(names.split("|") if "|" in names else names.split()), task, Columns())
    assert not problems.found
    assert "|".join(name or "" for name in (found.text, found.text_pair, found.label, found.id)) == expected


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("tokens slots intent", ("tokens", "slots", "intent")),
        ("tokens ner_tags intent label", ("tokens", "ner_tags", "intent")),
        ("words tags label", ("words", "tags", "label")),
        ("text slots intent", ("text", "slots", "intent")),
    ],
)
def test_words_tags_and_intents_are_recognised(names, expected):
    found, problems = recognise(table(names.split()), "intent-slot", Columns())
    assert not problems.found
    assert (found.tokens, found.slots, found.label) == expected


def test_words_stand_in_for_a_text_that_is_not_there():
    assert recognise(table(["tokens", "intent"]), "classification", Columns())[0].tokens == "tokens"


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Columns(text="b"), ("b", None)),
        (Columns(text="b", text_pair="c"), ("b", "c")),
        (Columns(text="sentence1"), ("sentence1", None)),
        (Columns(text_pair="c"), ("sentence1", "c")),
        (Columns(text_pair="sentence1", text="sentence2"), ("sentence2", "sentence1")),
    ],
)
def test_the_users_names_come_first(wanted, expected):
    found, _ = recognise(table(["b", "c", "sentence1", "sentence2", "label"]), "classification", wanted)
    assert (found.text, found.text_pair) == expected


def test_columns_of_any_name_can_be_used(folder):
    rows = [{"q": row["text"], "stars": i, "key": f"k{i}"} for i, row in enumerate(sentences(6))]
    home = folder(train=rows[:4], dev=rows[4:])
    data = load_data(home, "regression", columns=Columns(text="q", label="stars", id="key"))
    assert data.splits["train"].ids == ("k0", "k1", "k2", "k3")
    assert data.splits["dev"].labels == (4.0, 5.0)
    joint = [{"w": row["tokens"], "t": row["slots"], "act": row["intent"]} for row in commands(4)]
    named = Columns(tokens="w", slots="t", intent="act")
    assert load_data(folder(name="joint", train=joint), "intent-slot", columns=named).label_names == ("play", "stop")


def test_label_and_intent_name_the_same_thing(folder):
    home = folder(train=[{"text": "a", "kind": "x"}, {"text": "b", "kind": "y"}, {"text": "c", "kind": "y"}])
    one = load_data(home, "classification", columns=Columns(label="kind"))
    assert one == load_data(home, "classification", columns=Columns(intent="kind"))


@pytest.mark.parametrize(
    ("task", "rows", "columns", "message"),
    [
        (
            "classification",
            [{"a": "x", "label": 1}],
            {},
            "no column with the text; found 'a', 'label'. .* --text-column",
        ),
        (
            "classification",
            [{"text": "x", "b": 1}],
            {},
            "no column with the label; found 'text', 'b'. .* --label-column",
        ),
        ("intent-slot", [{"tokens": ["x"], "intent": "a"}], {}, "no column with the slots; .* --slots-column"),
        ("intent-slot", [{"tokens": ["x"], "slots": ["O"]}], {}, "no column with the intent; .* --intent-column"),
        ("token-classification", [{"tokens": ["x"]}], {}, "no column with the slots; .* --slots-column"),
        ("intent-slot", [{"a": ["x"]}], {}, "(?s)with the tokens; .*with the intent; .*with the slots; "),
        (
            "classification",
            [{"text": "x", "label": 1}],
            {"label": "lable"},
            "--label-column: unknown column 'lable'; did you mean 'label'",
        ),
        ("classification", [{"text": "x", "label": 1}], {"intent": "lable"}, "--intent-column: unknown column 'lable'"),
        ("classification", [{"text": "x", "label": 1}], {"id": "key", "text": "txt"}, "(?s)--text-column.*--id-column"),
    ],
)
def test_a_missing_column_is_told_with_those_that_are_there(folder, task, rows, columns, message):
    with pytest.raises(DataError, match=message):
        load_data(folder(train=rows), task, columns=Columns(**columns))


@pytest.mark.parametrize(
    ("task", "columns", "message"),
    [
        ("classification", {"slots": "s"}, "--slots-column has no effect for the task 'classification'"),
        ("regression", {"intent": "s"}, "--intent-column has no effect for the task 'regression'"),
        ("intent-slot", {"text_pair": "s"}, "--text-pair-column has no effect for the task 'intent-slot'"),
        ("token-classification", {"label": "s"}, "--label-column has no effect for the task 'token-classification'"),
        ("classification", {"intent": "a", "label": "b"}, "--label-column and --intent-column name the same thing"),
    ],
)
def test_a_name_without_effect_is_refused(task, columns, message):
    with pytest.raises(ArgumentError, match=message):
        load_data("snips", task, columns=Columns(**columns))


def test_every_split_must_have_the_pair(folder):
    pairs = [{"sentence1": "a", "sentence2": "b", "label": i} for i in range(3)]
    with pytest.raises(DataError, match=r"dev\.jsonl: train has a pair per example, this split one text"):
        load_data(folder(train=pairs, dev=sentences(2, labels=(0, 1))), "classification")
