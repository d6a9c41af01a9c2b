"""Rows of conversations, prompts and plain texts become turns; what is wrong with a row names it and its id."""

from __future__ import annotations

import json

import datasets
import pytest
from benchmarks.byte_lm import SHAPES

from datadiet.data.columns import check_columns, recognise
from datadiet.data.conversations import answer_text, is_answered, prompt_text
from datadiet.data.load import load_data, read_examples
from datadiet.data.schema import Columns, Examples, fingerprint, joined_texts, without_input
from datadiet.data.tables import Table
from datadiet.errors import DataError
from toys import write_rows

ASKED = ("user", "2 + 2?")
PAIR = (ASKED, ("assistant", "4"))
MESSAGES = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]

# the columns of well-known sets -> messages|prompt|answer|context|system|text
KNOWN = [
    ("TRL", "messages", "messages|||||"),
    ("ShareGPT", "id conversations", "conversations|||||"),
    ("TRL pairs", "prompt completion", "|prompt|completion|||"),
    ("Alpaca", "instruction input output text", "|instruction|output|input||"),
    ("dolly", "instruction context response category", "|instruction|response|context||"),
    ("dolly, prompt written out", "id prompt instruction context response label", "|prompt|response|||"),
    ("gsm8k", "question answer", "|question|answer|||"),
    ("Orca", "system_prompt question response", "|question|response||system_prompt|"),
    ("input and output", "input output", "|input|output|||"),
    ("C4", "url text timestamp", "|||||text"),
]


def table(names: str) -> Table:
    return Table("train.jsonl", {name: ["x"] for name in names.split()}, 1)


@pytest.mark.parametrize(("what", "names", "expected"), KNOWN, ids=[row[0] for row in KNOWN])
def test_the_columns_of_known_sets_are_recognised(what, names, expected):
    found, problems = recognise(table(names), "causal-lm", Columns())
    assert not problems.found
    parts = (found.messages, found.prompt, found.answer, found.context, found.system, found.text)
    assert "|".join(name or "" for name in parts) == expected


def test_columns_can_be_named():
    wanted = Columns(prompt="q", answer="a")
    found, problems = recognise(table("q a messages text"), "causal-lm", wanted)
    assert not problems.found
    assert (found.prompt, found.answer, found.messages, found.text) == ("q", "a", None, None)
    plain, _ = recognise(table("prompt response body"), "causal-lm", Columns(text="body"))
    assert (plain.text, plain.prompt) == ("body", None)


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        (Columns(label="x"), "--label-column has no effect for the task 'causal-lm'; leave it out."),
        (Columns(tokens="x"), "--tokens-column has no effect for the task 'causal-lm'; leave it out."),
    ],
)
def test_columns_of_other_tasks_are_refused(columns, sentence):
    assert check_columns(columns, "causal-lm").found == [sentence]


def test_columns_of_conversations_are_refused_elsewhere():
    assert check_columns(Columns(answer="x"), "classification").found == [
        "--answer-column has no effect for the task 'classification'; leave it out."
    ]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("label other", "no column with messages, a prompt or a text; found 'label', 'other'. Call it 'messages',"),
        (
            "prompt label",
            "no column with the answer; found 'prompt', 'label'. Call it 'response' or name it",
        ),
        (
            "prompt chosen rejected",
            "train with DPOTrainer; --answer-column chosen takes the better one.",
        ),
        ("chosen rejected", "train with DPOTrainer; --messages-column chosen takes the better one."),
    ],
)
def test_columns_that_are_missing_are_named(names, message):
    assert message in recognise(table(names), "causal-lm", Columns())[1].found[0]


FORMS = {
    "messages": {"messages": MESSAGES},
    "in text": {"messages": json.dumps(MESSAGES)},
    "sharegpt": {"conversations": [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]},
    "columns": {"messages": {"role": ["user", "assistant"], "content": ["2 + 2?", "4"]}},
    "pair": {"prompt": "2 + 2?", "completion": "4"},
    "pair of messages": {"prompt": MESSAGES[:1], "completion": MESSAGES[1:]},
    "messages and text": {"prompt": MESSAGES[:1], "completion": "4"},
    "text and messages": {"prompt": "2 + 2?", "completion": MESSAGES[1:]},
    "parts": {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "2 + 2?"}, {"type": "text", "text": ""}]},
            MESSAGES[1],
        ]
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_turns(form, tmp_path):
    other = json.loads(json.dumps(FORMS[form]).replace("2 + 2?", "3 + 3?"))
    write_rows(tmp_path / "train.jsonl", [FORMS[form], other])
    train = load_data(str(tmp_path / "train.jsonl"), "causal-lm").splits
    rows = {turns for split in train.values() for turns in split.turns or ()}
    assert rows == {PAIR, (("user", "3 + 3?"), ("assistant", "4"))}
    assert {text for split in train.values() for text in split.texts} == {"2 + 2?", "3 + 3?"}


@pytest.mark.parametrize("kind", ["csv", "parquet", "json", "saved"])
def test_formats_agree(kind, tmp_path):
    rows = [
        {"id": str(n), "instruction": f"say {n}", "context": "" if n % 2 else "now", "response": f"{n}!"}
        for n in range(4)
    ]
    write_rows(tmp_path / "train.jsonl", rows)
    expected = load_data(str(tmp_path / "train.jsonl"), "causal-lm")
    source = tmp_path / f"train.{kind}"
    if kind == "saved":
        datasets.DatasetDict(train=datasets.Dataset.from_list(rows)).save_to_disk(source)
    else:
        write_rows(source, rows)
    read = load_data(str(source), "causal-lm")
    assert read.fingerprint == expected.fingerprint
    assert read.splits == expected.splits
    turns = dict(zip(read.splits["train"].ids, read.splits["train"].turns or (), strict=True))
    assert {turns.get("0", turns.get("2")), turns.get("1", turns.get("3"))} <= {
        (("user", f"say {n}\n\nnow" if n % 2 == 0 else f"say {n}"), ("assistant", f"{n}!")) for n in range(4)
    }


def test_nested_messages_come_through_parquet_and_saved_sets(tmp_path):
    rows = [
        {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": "yes"}]} for n in range(4)
    ]
    write_rows(tmp_path / "train.parquet", rows)
    datasets.DatasetDict(train=datasets.Dataset.from_list(rows)).save_to_disk(tmp_path / "saved")
    for source in ("train.parquet", "saved"):
        splits = load_data(str(tmp_path / source), "causal-lm").splits
        assert sorted(turns for split in splits.values() for turns in split.turns or ())[0] == (
            ("user", "0?"),
            ("assistant", "yes"),
        )


def test_keys_that_say_nothing_more_are_no_fault(tmp_path):
    more = {"weight": 1, "tool_calls": [], "thinking": None, "name": "me"}
    write_rows(tmp_path / "a.jsonl", [{"messages": [MESSAGES[0], {**MESSAGES[1], **more}]}] * 2)
    assert read_examples(str(tmp_path / "a.jsonl"), "causal-lm").turns == (PAIR, PAIR)


def test_a_system_column_and_a_system_message_come_first(tmp_path):
    write_rows(tmp_path / "a.jsonl", [{"system": "Be brief.", "prompt": "2 + 2?", "response": "4"}] * 2)
    write_rows(tmp_path / "b.jsonl", [{"messages": [{"role": "system", "content": "Be brief."}, *MESSAGES]}] * 2)
    expected = (("system", "Be brief."), *PAIR)
    write_rows(tmp_path / "c.jsonl", [{"system": "Be brief.", "prompt": MESSAGES[:1], "completion": MESSAGES[1:]}] * 2)
    for name in ("a", "b", "c"):
        assert read_examples(str(tmp_path / f"{name}.jsonl"), "causal-lm").turns == (expected, expected)


BAD = {
    "the roles do not alternate: message 2 is of 'user', not of 'assistant'": [MESSAGES[0], MESSAGES[0], MESSAGES[1]],
    "the roles do not alternate: message 1 is of 'assistant', not of 'user'": [MESSAGES[1]],
    "the roles do not alternate: message 3 is of 'system'": [*MESSAGES, {"role": "system", "content": "no"}],
    "a role is unknown: message 2 is of 'tool', not of 'assistant'": [MESSAGES[0], {"role": "tool", "content": "1"}],
    "the answer is empty": [MESSAGES[0], {"role": "assistant", "content": "  "}],
    "a message is empty: message 1 (user)": [{"role": "user", "content": ""}, MESSAGES[1]],
    "a message is empty: message 2 (assistant)": [MESSAGES[0], {"role": "assistant", "content": ""}, *MESSAGES],
    "a message has a part of the type 'image', and only text is read: message 1 ('user')": [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "2 + 2?"}]},
        MESSAGES[1],
    ],
    "a message has 'tool_calls', which is not read; put it into the text or remove it: message 2 ('assistant'); mend": [
        MESSAGES[0],
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
    ],
    "there are no messages": [],
    "a message has no text: message 2 ('assistant')": [MESSAGES[0], {"role": "assistant", "content": None}],
    "a message has no role: message 1": [{"content": "x"}],
    "a message is no mapping of role and content: message 1 is 'hello'": ["hello"],
    "the messages are no list: 7": 7,
    "the messages are no JSON list: 'hello'": "hello",
    "a message has the weight 0, and only rows have weights; remove it: message 2 ('assistant')": [
        MESSAGES[0],
        {**MESSAGES[1], "weight": 0},
    ],
    "a message has 'tool_calls', which is not read; put it into the text or remove it: message 2 ('assistant')": [
        MESSAGES[0],
        {**MESSAGES[1], "tool_calls": [{"id": "1"}]},
    ],
    "there is a system message and nothing else": [{"role": "system", "content": "x"}],
    "there is no answer: the last message is the user's": [*MESSAGES, MESSAGES[0]],
}


@pytest.mark.parametrize("problem", BAD)
def test_a_bad_conversation_is_named_by_line_and_id(problem, tmp_path):
    write_rows(tmp_path / "train.jsonl", [{"id": "a", "messages": MESSAGES}, {"id": "b", "messages": BAD[problem]}])
    with pytest.raises(DataError) as caught:
        load_data(str(tmp_path / "train.jsonl"), "causal-lm")
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].startswith(f"{tmp_path / 'train.jsonl'}, line 2: id 'b': {problem}")


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"prompt": "", "response": "x"}, "the prompt is empty"),
        ({"prompt": MESSAGES[:1], "response": 4}, r"the answer is no text: 4 \(int\)"),
        ({"prompt": "x", "response": MESSAGES[:1]}, "the roles do not alternate: message 2 is of 'user'"),
        ({"prompt": "x", "response": ""}, "the answer is empty"),
        ({"prompt": "x", "response": None}, "there is no answer"),
        ({"prompt": "x", "response": 4}, r"the answer is no text: 4 \(int\)"),
    ],
)
def test_a_bad_prompt_is_named(row, problem, tmp_path):
    write_rows(tmp_path / "train.jsonl", [{"prompt": "x", "response": "y"}, row])
    with pytest.raises(DataError, match=f"line 2: id '1': {problem}"):
        load_data(str(tmp_path / "train.jsonl"), "causal-lm")


def test_what_would_be_passed_over_beside_messages_is_named(tmp_path):
    row = {"question": MESSAGES[:1], "context": "y", "response": "4"}
    write_rows(tmp_path / "train.jsonl", [row, row])
    with pytest.raises(DataError, match="a context stands beside messages, and is not read there: 'y'"):
        load_data(str(tmp_path / "train.jsonl"), "causal-lm")
    write_rows(tmp_path / "mixed.jsonl", [{"messages": MESSAGES}, {"prompt": "2 + 2?", "completion": "4"}])
    with pytest.raises(DataError, match="line 2: id '1': there are no messages, but a 'prompt': give all rows"):
        load_data(str(tmp_path / "mixed.jsonl"), "causal-lm")


def test_an_empty_plain_text_is_named(tmp_path):
    write_rows(tmp_path / "train.jsonl", [{"text": "x"}, {"text": " "}])
    with pytest.raises(DataError, match="line 2: id '1': the text is empty; mend the row"):
        load_data(str(tmp_path / "train.jsonl"), "causal-lm")


def test_new_prompts_need_no_answer(tmp_path):
    write_rows(tmp_path / "new.jsonl", [{"prompt": "2 + 2?"}, {"prompt": "3?"}])
    examples = read_examples(str(tmp_path / "new.jsonl"), "causal-lm")
    assert examples.turns == ((ASKED,), (("user", "3?"),))
    assert not examples.labelled
    write_rows(tmp_path / "some.jsonl", [{"prompt": "2 + 2?", "response": "4"}, {"prompt": "3?", "response": None}])
    assert read_examples(str(tmp_path / "some.jsonl"), "causal-lm").turns == examples.turns  # not every row has one


def test_a_test_split_has_answers_for_all_rows_or_for_none(tmp_path):
    rows = [{"prompt": f"{n}?", "response": "yes"} for n in range(4)]
    write_rows(tmp_path / "train.jsonl", rows)
    write_rows(tmp_path / "test.jsonl", [{"prompt": "9?"}])
    data = load_data(str(tmp_path), "causal-lm")
    assert not data.splits["test"].labelled
    assert "test is unlabelled: it gets no metrics." in data.notes
    write_rows(tmp_path / "test.jsonl", [{"prompt": "9?", "response": "yes"}, {"prompt": "8?", "response": None}])
    with pytest.raises(DataError, match="line 2: id '1': there is no answer"):
        load_data(str(tmp_path), "causal-lm")


def test_plain_text_is_one_turn_and_is_labelled(tmp_path):
    (tmp_path / "train.txt").write_text("To be\nor not\nto be\n", encoding="utf-8")
    examples = read_examples(str(tmp_path / "train.txt"), "causal-lm")
    assert examples.turns == ((("text", "To be"),), (("text", "or not"),), (("text", "to be"),))
    assert examples.labelled
    assert answer_text(examples.turns[0]) == ""


def test_rows_are_repeats_where_prompt_and_answer_are(tmp_path):
    rows = [{"prompt": "Tell a joke.", "response": answer} for answer in ("a", "b", "a", "c")]
    write_rows(tmp_path / "train.jsonl", rows)
    write_rows(tmp_path / "dev.jsonl", [{"prompt": "Another?", "response": "no"}])
    data = load_data(str(tmp_path), "causal-lm", dedupe=True)
    assert [answer_text(turns) for turns in data.splits["train"].turns or ()] == ["a", "b", "c"]
    assert data.splits["train"].times == (2, 1, 1)


def test_the_fingerprint_covers_answers_and_roles():
    def of(*turns):
        return fingerprint("causal-lm", {"train": Examples(ids=("0",), texts=("x",), turns=(turns,))})

    assert len({of(*PAIR), of(ASKED, ("assistant", "5")), of(("system", "2 + 2?"), PAIR[1])}) == 3


def test_texts_of_conversations():
    examples = Examples(ids=("0",), texts=("2 + 2?",), turns=(PAIR,))
    assert joined_texts(examples) == ["2 + 2? 4"]
    assert is_answered(PAIR)
    assert prompt_text((("system", "s"), *PAIR)) == "2 + 2?"
    with pytest.raises(DataError, match="for a language model there is no input to leave out"):
        without_input(examples)


def test_half_a_surrogate_pair_in_an_answer_is_named(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"prompt": "x", "response": "\\ud800"}\n{"prompt": "y", "response": "z"}\n')
    with pytest.raises(DataError, match=r"line 1: the answer holds .*, half of a surrogate pair"):
        load_data(str(tmp_path / "train.jsonl"), "causal-lm")


def test_there_are_shapes_of_both_kinds():
    assert {shape.partition("-")[0] for shape in SHAPES} == {"gpt2", "llama"}
