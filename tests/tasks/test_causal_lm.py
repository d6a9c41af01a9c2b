"""Causal language models: which tokens train, what is refused, and what the numbers mean."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.byte_lm import CHAT, byte_tokenizer, write_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from datadiet.data.schema import Dataset, Examples
from datadiet.errors import ArgumentError, DataError
from datadiet.scoring.forward import forward_pass
from datadiet.tasks import task_for, task_of_saved_model
from datadiet.tasks.base import Collator, Prediction, TokenTotals, token_padding
from datadiet.tasks.causal_lm import SHORT, CausalLMTask, check_template
from datadiet.tasks.loading import load_config, load_saved, with_lora
from toys import tiny_lm_folder, tiny_model_folder, weights

TASK = CausalLMTask()
CHATML = (
    "{% for message in messages %}{{ '<|user|>' + message['role'] + '\n' + message['content'] + eos_token + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|user|>assistant\n' }}{% endif %}"
)
WITHOUT_PROMPT = CHATML.partition("{% if add")[0]
# the closing bracket of a prompt is the beginning of the answer
BRACKETS = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ '[' + message['content'] + ']' }}"
    "{% else %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}"
)
# the end of the text is within the marks' last character, of three bytes
BARE = CHAT.replace("message['content'] + eos_token", "message['content']")
TALK = (("user", "2 + 2?"), ("assistant", "4"), ("user", "And 日?"), ("assistant", "本"))


def tokenizer_with(template: str | None) -> Any:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def examples_of(*turns: Any) -> Examples:
    return Examples(ids=tuple(f"r{n}" for n in range(len(turns))), texts=("",) * len(turns), turns=tuple(turns))


def trained(tokenizer: Any, *turns: Any, max_length: int = 200) -> list[str]:
    """The text of the tokens of each row that train, runs of them divided by a bar."""
    found = []
    for row in TASK.features(examples_of(*turns), tokenizer, max_length=max_length):
        assert row["labels"][0] == -100
        assert all(label in (-100, token) for label, token in zip(row["labels"], row["input_ids"], strict=True))
        assert row["trained"] == sum(label != -100 for label in row["labels"])
        runs: list[list[int]] = [[]]
        for label in row["labels"]:
            if label != -100:
                runs[-1].append(label)
            elif runs[-1]:
                runs.append([])
        found.append("|".join(tokenizer.decode(run) for run in runs if run))
    return found


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (CHAT, "4<|end|>|本<|end|>"),  # by its marks
        (BARE, "4|本"),  # every byte of the last character, of which transformers' own mask has the first
        (CHATML, "4<|end|>|本<|end|>"),  # what follows each prompt, without the line break after its end
        (CHATML.replace("eos_token", "'.'"), "4.\n|本.\n"),  # it does not end with the end token
        (BRACKETS, "4<|end|>|本<|end|>"),
    ],
)
def test_the_answers_alone_train(template, expected):
    assert trained(tokenizer_with(template), TALK) == [expected]


@pytest.mark.parametrize("template", [CHAT, CHATML, BRACKETS, None])
def test_a_prompt_is_the_beginning_of_the_whole(template):
    tokenizer, asked = tokenizer_with(template), examples_of(TALK[:1], TALK[:2])
    whole = TASK.features(examples_of(TALK[:2]), tokenizer, max_length=200)[0]
    for row in TASK.prompts(asked, tokenizer, max_length=200):
        count = len(row["input_ids"])
        assert row["input_ids"] == whole["input_ids"][:count]
        assert [label != -100 for label in whole["labels"]].index(True) == count


def test_without_a_template_the_answer_stands_after_a_blank_line_and_ends():
    tokenizer = tokenizer_with(None)
    system = (("system", "Be brief."), *TALK[:2])
    assert trained(tokenizer, TALK[:2], system) == ["4<|end|>"] * 2
    rows = TASK.features(examples_of(TALK[:2], system), tokenizer, max_length=200)["input_ids"][:]
    assert [tokenizer.decode(row) for row in rows] == ["2 + 2?\n\n4<|end|>", "Be brief.\n\n2 + 2?\n\n4<|end|>"]
    with pytest.raises(DataError, match="row 1, id 'r0': a conversation with several answers needs a chat template"):
        TASK.features(examples_of(TALK), tokenizer, max_length=200)


def test_a_plain_text_trains_whole_but_for_its_first_token():
    tokenizer = byte_tokenizer()
    assert trained(tokenizer, (("text", "To be"),)) == ["o be<|end|>"]
    assert trained(tokenizer, (("text", "To be<|end|>"),)) == ["o be<|end|>"]  # ended already
    asked = TASK.prompts(examples_of((("text", "To be"),)), tokenizer, max_length=200)
    assert tokenizer.decode(asked[0]["input_ids"]) == "To be"


def test_a_merged_token_across_the_border_trains():
    """The space before an answer and its first letter can be one token: the answer has it."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(WordLevel({"<eos>": 0, "ask": 1, ": yes": 2, ":": 3, " ": 4, "yes": 5}, unk_token="<eos>"))
    inner.pre_tokenizer = Split("ask", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>", pad_token="<eos>")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['content'] + (': ' if m['role'] == 'user' else '') }}{% endfor %}"
    )
    row = TASK.features(examples_of((("user", "ask"), ("assistant", "yes"))), tokenizer, max_length=9)[0]
    assert (row["input_ids"], row["labels"]) == ([1, 2], [-100, 2])


@pytest.mark.parametrize(
    ("template", "turns", "problem"),
    [
        (WITHOUT_PROMPT, TALK, "the chat template of the tokenizer has no generation prompt"),
        (
            CHATML + "{{ raise_exception('no tools') }}",
            TALK,
            "the chat template cannot write this conversation: 'no",
        ),
        (CHATML.replace("'<|user|>' + m", "loop.revindex|string + m"), TALK, "before answer 1 is not the beginning of"),
        (CHAT.replace("== 'assistant'", "== 'robot'"), TALK, "marks no token of the answer with {% generation %}"),
    ],
)
def test_a_template_that_does_not_do_is_refused_before_training(template, turns, problem):
    with pytest.raises(DataError) as caught:
        TASK.features(examples_of(turns), tokenizer_with(template), max_length=200)
    assert problem in str(caught.value)
    assert len(caught.value.problems) == 1


def test_a_template_whose_prompt_is_its_bracket_has_a_generation_prompt():
    check_template(tokenizer_with(BRACKETS))


def test_plain_text_needs_no_template():
    assert trained(tokenizer_with(WITHOUT_PROMPT), (("text", "To be"),)) == ["o be<|end|>"]


def test_rows_are_cut_at_their_end_and_counted():
    tokenizer = byte_tokenizer()
    features = TASK.features(examples_of(TALK[:2], TALK), tokenizer, max_length=9)
    assert features["length"][:] == [9, 9]
    assert features["cut"][:] == [1, 1]
    assert features["trained"][:] == [1, 1]  # the 4, and not its end
    short = TASK.features(examples_of(TALK[:2]), tokenizer, max_length=7)
    assert short["trained"][:] == [0]
    notes = TASK.notes({"train": features, "dev": short}, tokenizer, "hub/name")
    assert notes == [
        "train: 2 of 2 rows are longer than 9 tokens and were cut.",
        "dev: 1 of 1 rows are longer than 7 tokens and were cut.",
    ]


def test_a_row_longer_than_the_model_is_refused_where_the_length_does_not_cut_it():
    tokenizer = byte_tokenizer()
    tokenizer.model_max_length = 9
    with pytest.raises(DataError, match="row 1, id 'r0': its 10 tokens are more than the 9 of the model; cut it "):
        TASK.features(examples_of(TALK[:2]), tokenizer, max_length=200)
    assert TASK.features(examples_of(TALK[:2]), tokenizer, max_length=9)["length"][:] == [9]


def test_padding_stands_after_the_tokens_and_never_trains_even_as_the_end_token():
    tokenizer = byte_tokenizer()
    tokenizer.padding_side, tokenizer.pad_token = "left", tokenizer.eos_token
    rows = list(TASK.features(examples_of(TALK[:2], TALK), tokenizer, max_length=200))
    batch = TASK.collator(tokenizer)(rows)
    width = len(rows[0]["input_ids"])
    assert batch.keys() == {"input_ids", "attention_mask", "labels"}
    assert batch["attention_mask"].sum(1).tolist() == [width, len(rows[1]["input_ids"])]
    assert (batch["labels"][0, width:] == -100).all()
    assert (batch["input_ids"][0, width:] == tokenizer.eos_token_id).all()
    assert int(batch["labels"][0, width - 1]) == tokenizer.eos_token_id  # its own end does


# ---- the tokenizer and the model


def saved(tmp_path: Any, change: Any) -> str:
    folder = tiny_lm_folder(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    change(tokenizer)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_tokenizer_without_an_end_token_is_refused(tmp_path):
    folder = saved(tmp_path, lambda tokenizer: setattr(tokenizer, "eos_token", None))
    with pytest.raises(ArgumentError, match="has no end token, so a model could not learn where an answer ends"):
        TASK.load_tokenizer(folder)


def test_a_tokenizer_without_a_padding_token_pads_with_its_end_token_and_says_so(tmp_path):
    tokenizer = TASK.load_tokenizer(saved(tmp_path, lambda tokenizer: setattr(tokenizer, "pad_token", None)))
    assert tokenizer.pad_token == tokenizer.eos_token
    assert "The tokenizer has no padding token of its own" in TASK.notes({}, tokenizer, "hub/name")[0]


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tmp_path):
    with pytest.raises(ArgumentError, match="has 261 tokens, and the model knows 200 of them"):
        TASK.load_tokenizer(str(tiny_lm_folder(tmp_path, vocab_size=200)))


def test_the_tokenizer_knows_the_positions_of_the_model(tmp_path):
    assert TASK.load_tokenizer(str(tiny_lm_folder(tmp_path, max_position_embeddings=77))).model_max_length == 77
    assert TASK.load_tokenizer(str(tiny_lm_folder(tmp_path, "gpt2", n_positions=66))).model_max_length == 66


def test_an_encoder_is_no_language_model(tmp_path):
    folder = str(tiny_model_folder(tmp_path))
    for load in (TASK.load_tokenizer, TASK.load_model):
        with pytest.raises(ArgumentError, match=r"\(bert\) is no causal language model"):
            load(folder)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_folder_without_weights_gives_a_new_model_by_the_seed(kind, tmp_path):
    folder = str(tiny_lm_folder(tmp_path, kind))
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        model = TASK.load_model(folder)
        assert not model.training
        assert model.dtype == torch.float32
        drawn.append(weights(model))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert "holds a config and no weights" in TASK.notes({}, byte_tokenizer(), folder)[0]


def test_a_saved_model_is_known_as_one_and_complete(tmp_path):
    folder = tiny_lm_folder(tmp_path)
    model = TASK.load_model(str(folder))
    model.save_pretrained(tmp_path / "saved")
    assert task_of_saved_model(tmp_path / "saved") == TASK
    assert torch.equal(weights(load_saved(tmp_path / "saved")), weights(model))
    assert load_config(str(tmp_path / "saved")).architectures == ["LlamaForCausalLM"]
    assert task_for(Dataset("x", "causal-lm", {}, (), (), "0")) == TASK


def test_an_adapter_leaves_the_head_as_it_is(tmp_path):
    model = with_lora(TASK.load_model(str(tiny_lm_folder(tmp_path))), 4)
    trains = {name for name, one in model.named_parameters() if one.requires_grad}
    assert trains
    assert all("lora_" in name for name in trains)


def test_model_options_are_refused(tmp_path):
    with pytest.raises(ArgumentError, match="alpha: only the intent-slot task takes model options"):
        TASK.load_model(str(tiny_lm_folder(tmp_path)), alpha=0.5)


# ---- signals, predictions, metrics


@pytest.fixture
def forward(tmp_path):
    tokenizer, rows = byte_tokenizer(), examples_of(TALK[:2], TALK, (("user", "日?"), ("assistant", "no, never")))
    torch.manual_seed(0)
    model = TASK.load_model(str(tiny_lm_folder(tmp_path)))
    batch = TASK.collator(tokenizer)(list(TASK.features(rows, tokenizer, max_length=200)))
    with torch.inference_mode():
        return SimpleNamespace(outputs=model(**batch), batch=batch, rows=rows, model=model, tokenizer=tokenizer)


def test_signals_and_predictions_are_those_of_each_row_alone(forward):
    head = TASK.signals(forward.outputs, forward.batch).heads["tokens"]
    predictions = TASK.decode(forward.outputs, forward.batch)
    for row, prediction in enumerate(predictions):
        one = examples_of(forward.rows.turns[row])
        alone = TASK.collator(forward.tokenizer)(list(TASK.features(one, forward.tokenizer, max_length=200)))
        with torch.inference_mode():
            loss = forward.model(**alone).loss  # of transformers itself
        count = int(head.mask[row].sum())
        assert prediction.tokens is not None
        assert prediction.tokens.count == count == int((alone["labels"] != -100).sum())
        assert prediction.tokens.nll == pytest.approx(float(loss) * count, rel=1e-5)
        assert prediction.probability == pytest.approx(math.exp(-float(loss)), rel=1e-5)
    metrics = TASK.metrics(forward.rows, predictions)
    assert metrics is not None
    with torch.inference_mode():
        assert metrics["nll"] == pytest.approx(float(forward.model(**forward.batch).loss), rel=1e-5)
    assert metrics["perplexity"] == pytest.approx(math.exp(metrics["nll"]))
    assert metrics["likelihood"] == pytest.approx(1 / metrics["perplexity"])


def test_metrics_by_hand():
    turns = (TALK[:2], TALK[:2], (("user", "x"), ("assistant", "y" * 60)), TALK[:2])
    totals = [(2, 0.2, 2, True), (2, 3.0, 1, False), (61, 61.0, 40, None), (0, 0.0, 0, None)]
    predictions = [Prediction(None, None, None, tokens=TokenTotals(*one)) for one in totals]
    metrics = TASK.metrics(examples_of(*turns), predictions)
    assert metrics == pytest.approx({
        "likelihood": math.exp(-64.2 / 65), "token_accuracy": 43 / 65, "exact_match": 0.5, "nll": 64.2 / 65,
        "perplexity": math.exp(64.2 / 65),
    })  # fmt: skip
    assert TASK.metrics(examples_of(*turns), [predictions[3]] * 4) is None  # every answer was cut away
    assert TASK.metrics(examples_of(TALK[:1]), [Prediction(None, None, None)]) is None  # there is none
    text = TASK.metrics(examples_of((("text", "To"),)), predictions[:1])
    assert text is not None
    assert "exact_match" not in text


def test_an_exact_match_is_what_greedy_decoding_gives(tmp_path):
    """Without generating: all tokens are the likeliest after the right ones, if and only if decoding gives them."""
    tokenizer, folder = byte_tokenizer(), tiny_lm_folder(tmp_path)
    rows = examples_of(*[(("user", f"{n}"), ("assistant", "ab" if n % 2 else "c")) for n in range(8)])
    torch.manual_seed(0)
    model: Any = TASK.load_model(str(folder))
    batch = TASK.collator(tokenizer)(list(TASK.features(rows, tokenizer, max_length=200)))
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    hard = {1, 4}  # which never train, so that some of each kind are wrong
    seen = {name: part[[row for row in range(8) if row not in hard]] for name, part in batch.items()}
    for _ in range(60):
        optimizer.zero_grad()
        model(**seen).loss.backward()
        optimizer.step()
    model.eval()
    with torch.inference_mode():
        predictions = TASK.decode(model(**batch), batch)
    generated = generate(model, rows, tokenizer)
    golden = [turns[-1][1] for turns in rows.turns or ()]
    exact = [bool(one.tokens and one.tokens.exact) for one in predictions]
    assert exact == [text == gold for text, gold in zip(generated, golden, strict=True)]
    assert sum(exact) > 0
    metrics = TASK.metrics(rows, predictions)
    assert metrics is not None
    assert metrics["exact_match"] == sum(exact) / 8
    # the same figure where the answers were generated
    with_text = [
        Prediction(text, None, None, tokens=one.tokens) for text, one in zip(generated, predictions, strict=True)
    ]
    assert TASK.metrics(rows, with_text) == metrics


def generate(model: Any, rows: Examples, tokenizer: Any) -> list[str]:
    prompts = TASK.prompts(rows, tokenizer, max_length=200)
    collate = Collator(token_padding(tokenizer), {}, left=True)
    found = [""] * len(rows)
    call = lambda batch: TASK.answers(model, batch, tokenizer, 6)  # noqa: E731
    for places, texts, _ in forward_pass(model, prompts, collate, call=call):
        for place, text in zip(places.tolist(), texts, strict=True):
            found[place] = text
    return found


def test_answers_do_not_depend_on_their_batch(forward):
    rows = examples_of(*(turns[:-1] for turns in forward.rows.turns))
    alone = [generate(forward.model, examples_of(turns), forward.tokenizer)[0] for turns in rows.turns or ()]
    assert generate(forward.model, rows, forward.tokenizer) == alone


def test_long_answers_have_no_exact_match():
    assert SHORT == 32
    logits = torch.zeros(1, 40, 3)
    (prediction,) = TASK.decode({"logits": logits}, {"labels": torch.zeros(1, 40, dtype=torch.long)})
    assert prediction.tokens is not None
    assert (prediction.tokens.count, prediction.tokens.exact) == (39, None)


def test_rows_without_answers_are_decoded_to_nothing(forward):
    batch = {name: part for name, part in forward.batch.items() if name != "labels"}
    assert TASK.decode(forward.outputs, batch) == [Prediction(None, None, None)] * 3
    with pytest.raises(ArgumentError, match="'labels' is missing"):
        TASK.signals(forward.outputs, batch)


def test_there_are_no_classes():
    features = TASK.features(examples_of(TALK), byte_tokenizer(), max_length=200)
    assert TASK.groups(features) is None
    assert (TASK.name, TASK.main_metric, TASK.label_names) == ("causal-lm", "likelihood", ())


def test_shapes_of_models_have_the_sizes_of_their_names(tmp_path):
    sizes = {}
    for shape in ("gpt2-0.2m", "llama-0.1m", "gpt2-1m", "llama-1m"):
        model = AutoModelForCausalLM.from_config(load_config(str(write_model(tmp_path / shape, shape))))
        sizes[shape] = round(model.num_parameters() / 1e6, 1)
    assert sizes == {"gpt2-0.2m": 0.2, "llama-0.1m": 0.1, "gpt2-1m": 1.0, "llama-1m": 1.0}
    assert np.isfinite(list(sizes.values())).all()
