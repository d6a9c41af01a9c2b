"""Causal language models: each token of an answer, or of a plain text, predicted from those before it.

A conversation is written by the chat template of the tokenizer, and the tokens of the assistant train: by the
template's own `{% generation %}` marks where it has them, else the text after each prompt, which must begin the whole.
A tokenizer without a template gets the prompt, a blank line and the answer, ended by its end token. A plain text trains
whole, but for its first token, which nothing stands before.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import datasets
import numpy as np
from jinja2 import TemplateError
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from datadiet.data.conversations import ASSISTANT, TEXT, USER, answer_text
from datadiet.data.schema import Examples, Turns
from datadiet.errors import DataError, quoted
from datadiet.registry import task
from datadiet.scores.tokens import token_signals
from datadiet.tasks.base import (
    Batch,
    Collator,
    Prediction,
    Row,
    TokenTotals,
    as_dataset,
    chunks,
    column,
    named,
    token_padding,
)
from datadiet.tasks.loading import is_causal, is_weightless, load_causal, load_causal_tokenizer
from datadiet.tasks.sequence import no_options
from datadiet.types import IGNORED, Signals

SHORT = 32  # tokens of an answer, its end included, up to which an exact match is counted
GAP = "\n\n"  # between prompt and answer, without a chat template
_GENERATION = re.compile(r"\{\%-?\s*generation\s*-?\%\}")
_PROBE = "aye"
_HALF = "\ufffd"  # what is decoded from a part of a character
_AT_ONCE = 10_000  # rows


@task(
    name="causal-lm",
    formula="each token of an answer, or of a text, from those before it",
    traits=("answers", "heads"),
    metrics=("likelihood", "token_accuracy", "exact_match"),  # the first falls and rises with the nll
    label="one text",
    pipeline="text-generation",
    max_length=1024,
)
@dataclass(frozen=True)
class CausalLMTask:
    """The answers of conversations and prompts, or plain texts, token by token."""

    name: ClassVar[str]
    main_metric: ClassVar[str]
    label_columns: ClassVar[tuple[str, ...]] = ("labels",)
    label_names: ClassVar[tuple[str, ...]] = ()
    slot_names: ClassVar[tuple[str, ...]] = ()

    @staticmethod
    def owns(config: Any) -> bool:
        """Whether a saved model is a causal language model."""
        return is_causal(config)

    def load_tokenizer(self, source: str) -> PreTrainedTokenizerBase:
        """The tokenizer of a model; it pads with its end token where it has nothing else to pad with."""
        return load_causal_tokenizer(source)

    def load_model(self, source: str, **options: Any) -> PreTrainedModel:
        """A stock causal language model; of a folder without weights a new one, by its config."""
        no_options(self.name, options)
        return load_causal(source)

    def features(self, examples: Examples, tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> datasets.Dataset:
        """Token columns, `length`, `labels` where there are answers, `trained` (their number), and `cut`.

        Labels are -100 where nothing trains, at the first position always. A row that is longer than `max_length` is
        cut at its end, and `cut` is 1.

        Raises:
            DataError: If the template cannot write a row, or `max_length` does not cut a row that is longer than the
                model; names the row and its id.
        """

        def parts() -> Iterator[dict[str, Any]]:
            for part in chunks(examples):
                yield _columns(part, tokenizer, max_length)

        return as_dataset(parts())

    def notes(
        self, features: Mapping[str, datasets.Dataset], tokenizer: PreTrainedTokenizerBase, source: str
    ) -> list[str]:
        """How many rows of each split were cut; a tokenizer without padding; a model without weights."""
        found = []
        if is_weightless(source):
            found.append(f"{source} holds a config and no weights: the model starts at random, from the seed.")
        if tokenizer.pad_token_id == tokenizer.eos_token_id:
            found.append(
                "The tokenizer has no padding token of its own: its end token pads, and padding is not trained."
            )
        for split, rows in features.items():
            cut = int(np.sum(rows.with_format("numpy")["cut"][:]))
            if cut:
                most = max(rows["length"])
                found.append(f"{split}: {cut:,} of {len(rows):,} rows are longer than {most:,} tokens and were cut.")
        return found

    def prompts(self, examples: Examples, tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> datasets.Dataset:
        """Token columns of what stands before each answer, with the beginning of the answer that a template writes.

        A prompt that is longer than `max_length` keeps its end.
        """

        def parts() -> Iterator[dict[str, Any]]:
            for part in chunks(examples):
                ids = [one[-max_length:] for one in _prompt_ids(part, tokenizer)]
                yield {"input_ids": ids, "attention_mask": [[1] * len(one) for one in ids]}

        return as_dataset(parts())

    def collator(
        self, tokenizer: PreTrainedTokenizerBase, *, pad_to_multiple_of: int | None = None
    ) -> Callable[[Sequence[Row]], Batch]:
        """Pads after the tokens, whatever the tokenizer's side; padding has no label, even as the end token."""
        padding = {**token_padding(tokenizer), "labels": IGNORED}
        return Collator(padding, {}, multiple=pad_to_multiple_of)

    def signals(self, outputs: Any, batch: Mapping[str, Tensor]) -> Signals:
        """One head, `tokens`: what each position says of the next token, where that trains."""
        return Signals({"tokens": token_signals(named(outputs, "logits"), named(batch, "labels"))})

    def decode(self, outputs: Any, batch: Mapping[str, Tensor]) -> list[Prediction]:
        """How likely and how often right the tokens of each answer are, given those before them.

        The probability is the geometric mean over the tokens. Nothing is generated: see `answers`.
        """
        if not isinstance(batch.get("labels"), Tensor):
            return [Prediction(None, None, None) for _ in range(len(named(batch, "input_ids")))]
        head = token_signals(named(outputs, "logits"), named(batch, "labels"))
        sums = (head.mask.sum(1), (head.nll * head.mask).double().sum(1), (head.right & head.mask).sum(1))  # (batch,)
        columns = (column.cpu().tolist() for column in sums)
        totals = [
            TokenTotals(count, nll, right, right == count if 0 < count <= SHORT else None)
            for count, nll, right in zip(*columns, strict=True)
        ]
        means = (math.exp(-one.nll / one.count) if one.count else None for one in totals)
        return [Prediction(None, mean, None, tokens=one) for mean, one in zip(means, totals, strict=True)]

    def answers(
        self, model: Any, batch: Mapping[str, Tensor], tokenizer: PreTrainedTokenizerBase, max_tokens: int
    ) -> list[str]:
        """Greedy answers to a batch of prompts that is padded on the left.

        Args:
            model: In eval mode.
            batch: From `prompts`.
            tokenizer: Of the model.
            max_tokens: Of an answer; it ends before where the model says so.
        """
        own = model.generation_config.eos_token_id
        ends = {tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])} - {None}
        ids = model.generate(
            **batch,
            do_sample=False,
            num_beams=1,
            max_new_tokens=max_tokens,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=sorted(ends),
        )
        new = ids[:, named(batch, "input_ids").shape[1] :]
        return [str(text) for text in tokenizer.batch_decode(new, skip_special_tokens=True)]

    def metrics(self, examples: Examples, predictions: Sequence[Prediction]) -> dict[str, float] | None:
        """`likelihood`, `token_accuracy`, `exact_match`, `nll` per token and `perplexity`; None where unlabelled.

        `likelihood` is the geometric mean of the probabilities of the tokens, exp(-nll) = 1 / perplexity: of all runs
        that with the least nll has the largest. `token_accuracy` can rise while the nll does, early in a training.
        `exact_match` is the share of the answers of at most `SHORT` tokens that greedy decoding gives word by word. No
        answer has to be generated for that: it does exactly where each token is the likeliest after the right ones.
        Where there is no such answer, and for plain text, there is no such figure. An answer that was cut counts by
        what is left of it, and one that was cut away counts nowhere.
        """
        if not examples.labelled or examples.turns is None:
            return None
        pairs = zip(examples.turns, predictions, strict=True)
        rows = [(turns, one, one.tokens) for turns, one in pairs if one.tokens is not None and one.tokens.count]
        count = sum(totals.count for *_, totals in rows)
        if not count:
            return None
        nll = sum(totals.nll for *_, totals in rows) / count
        short = [row for row in rows if row[2].exact is not None and answer_text(row[0])]
        exact = [_is_exact(*row) for row in short]
        return {
            "likelihood": math.exp(-nll),
            "token_accuracy": sum(totals.right for *_, totals in rows) / count,
            **({"exact_match": sum(exact) / len(exact)} if exact else {}),
            "nll": nll,
            "perplexity": math.exp(min(nll, 700.0)),
        }

    def groups(self, features: datasets.Dataset) -> NDArray[np.int64] | None:
        """A text has no class: None."""
        return None


@dataclass(frozen=True)
class AnswerRows:
    """What scores of whole answers read beside the tokens of each row.

    Attributes:
        features: Rows with answers, from `CausalLMTask.features`.
        tokenizer: That made them.
        prompted: Whether the rows have prompts; False for plain texts.
    """

    features: datasets.Dataset
    tokenizer: PreTrainedTokenizerBase
    prompted: bool = True

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """The tokens of each row that train: int64 `(n,)`, 0 for an answer that is empty or was cut away."""
        return column(self.features, "trained")

    @cached_property
    def cut(self) -> NDArray[np.bool_]:
        """Where a row was longer than the limit: bool `(n,)`."""
        return column(self.features, "cut") > 0

    @cached_property
    def sizes(self) -> dict[str, NDArray[np.int64]]:
        """By unit, `bytes`, `characters` and `tokens` of what trains: int64 `(n,)`.

        A special token, such as the end of an answer, is one of each, and so is a character that was cut in two.
        """
        special, sizes = set(self.tokenizer.all_special_ids), np.zeros((2, len(self.features)), np.int64)
        for start, part in self._trained():
            words = [[one for one in ids if one not in special] for ids in part]
            texts = self.tokenizer.batch_decode(words, clean_up_tokenization_spaces=False)
            for row, (ids, kept, text) in enumerate(zip(part, words, texts, strict=True), start):
                marks = len(ids) - len(kept) + text.count(_HALF)
                whole = text.replace(_HALF, "")
                sizes[:, row] = len(whole.encode()) + marks, len(whole) + marks
        return {"bytes": sizes[0], "characters": sizes[1], "tokens": self.counts}

    def alone(self) -> datasets.Dataset:
        """The same answers, token by token, without what stands before them.

        `opened` is 1 where a row begins with the tokenizer's token for the beginning of a text: it then stands before
        the answer too, and predicts its first token. Elsewhere nothing does, and that token has no label. The answers
        of a conversation follow one another.
        """

        def parts() -> Iterator[dict[str, Any]]:
            first = self.tokenizer.bos_token_id
            for start, part in self._trained():
                rows = self.features[start : start + len(part)]["input_ids"]
                opened = [first is not None and row[:1] == [first] for row in rows]
                ids = [[first, *one] if begun else one for begun, one in zip(opened, part, strict=True)]
                ids = [one or [self.tokenizer.eos_token_id] for one in ids]  # no model takes an empty row
                labels = [[IGNORED, *one[1:]] for one in ids]
                masks = [[1] * len(one) for one in ids]
                yield {"input_ids": ids, "attention_mask": masks, "labels": labels, "opened": list(map(int, opened))}

        return as_dataset(parts())

    def _trained(self) -> Iterator[tuple[int, list[list[int]]]]:
        """The tokens that train of some rows at a time, and the number of the first of them."""
        for start in range(0, len(self.features), _AT_ONCE):
            labels = self.features[start : start + _AT_ONCE]["labels"]
            yield start, [[one for one in row if one != IGNORED] for row in labels]


def answers_of(examples: Examples, features: datasets.Dataset, tokenizer: PreTrainedTokenizerBase) -> AnswerRows | None:
    """The answers of some examples with their features; None where they have none, as of any other task."""
    if "trained" not in features.column_names or examples.turns is None:
        return None
    return AnswerRows(features, tokenizer, prompted=not any(turns[0][0] == TEXT for turns in examples.turns))


def _is_exact(turns: Turns, prediction: Prediction, totals: TokenTotals) -> bool:
    if isinstance(prediction.label, str):  # it was generated
        return prediction.label.strip() == answer_text(turns).strip()
    return bool(totals.exact)


# ---- rows as tokens


def _columns(part: Examples, tokenizer: PreTrainedTokenizerBase, max_length: int) -> dict[str, Any]:
    """The columns of some examples."""
    written = list(_written(part, tokenizer))
    most = int(min(tokenizer.model_max_length, 2**31))
    too_long = [row for row, (ids, _) in enumerate(written) if len(ids) > most] if max_length > most else []
    if too_long:
        row = too_long[0]
        more = f" So are {len(too_long) - 1:,} more." if len(too_long) > 1 else ""
        raise DataError(
            f"{_place(part, row)}: its {len(written[row][0]):,} tokens are more than the {most:,} of the model; cut it "
            f"with --max-length {most}, or remove the row.{more}"
        )
    ids = [ids[:max_length] for ids, _ in written]
    columns: dict[str, Any] = {"input_ids": ids, "attention_mask": [[1] * len(one) for one in ids]}
    if part.labelled:
        labels = [
            [IGNORED, *(token if trains else IGNORED for token, trains in zip(one[1:], mask[1:], strict=False))]
            for one, (_, mask) in zip(ids, written, strict=True)
        ]
        columns |= {"labels": labels, "trained": [sum(label != IGNORED for label in one) for one in labels]}
    return {**columns, "cut": [int(len(full) > max_length) for full, _ in written]}


def _place(part: Examples, row: int) -> str:
    number = row if part.source_rows is None else part.source_rows[row]
    return f"row {number + 1}, id {quoted(part.ids[row])}"


Written = tuple[list[int], list[bool]]  # tokens, and whether each trains


def _written(part: Examples, tokenizer: PreTrainedTokenizerBase) -> Iterator[Written]:
    """Each row as tokens, whatever its length."""
    rows = part.turns or [((USER, text),) for text in part.texts]
    if all(turns[0][0] == TEXT for turns in rows):
        for ids in tokenizer([turns[0][1] for turns in rows], verbose=False)["input_ids"]:
            ended = ids if ids and ids[-1] == tokenizer.eos_token_id else [*ids, tokenizer.eos_token_id]
            yield ended, [True] * len(ended)
    elif tokenizer.chat_template is None:
        yield from _plain(part, rows, tokenizer)
    else:
        check_template(tokenizer)
        by_marks = _GENERATION.search(tokenizer.chat_template) is not None
        yield from (_marked if by_marks else _after_prompts)(part, rows, tokenizer)


def _plain(part: Examples, rows: Sequence[Turns], tokenizer: PreTrainedTokenizerBase) -> Iterator[Written]:
    """Prompt, a blank line, answer, end; a system message stands before the prompt."""
    prompts = [_plain_prompt(part, row, turns) for row, turns in enumerate(rows)]
    texts = [prompt + answer_text(turns) for prompt, turns in zip(prompts, rows, strict=True)]
    encoded = _with_offsets(tokenizer, texts, special=True)
    for prompt, turns, (ids, offsets) in zip(prompts, rows, encoded, strict=True):
        while ids and ids[-1] == tokenizer.eos_token_id:  # where the tokenizer ends texts itself
            ids, offsets = ids[:-1], offsets[:-1]
        mask = [end > len(prompt) for _, end in offsets]
        answered = turns[-1][0] == ASSISTANT
        yield ([*ids, tokenizer.eos_token_id], [*mask, True]) if answered else (ids, mask)


def _plain_prompt(part: Examples, row: int, turns: Turns) -> str:
    before = turns[:-1] if turns[-1][0] == ASSISTANT else turns
    if any(role == ASSISTANT for role, _ in before):
        raise DataError(
            f"{_place(part, row)}: a conversation with several answers needs a chat template, and the tokenizer has "
            "none: set tokenizer.chat_template and save it with the model."
        )
    return GAP.join(text for _, text in before) + GAP


def _messages(turns: Turns) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in turns]


def _marked(part: Examples, rows: Sequence[Turns], tokenizer: PreTrainedTokenizerBase) -> Iterator[Written]:
    """By the marks of the template; all bytes of a character train where its first one does."""
    for row, turns in enumerate(rows):
        try:
            encoded: Any = tokenizer.apply_chat_template(
                _messages(turns),
                return_dict=True,
                return_assistant_tokens_mask=True,
                tokenizer_kwargs={"return_offsets_mapping": True, "verbose": False},
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise _refused(part, row, error) from error
        ids, mask = list(encoded["input_ids"]), [bool(one) for one in encoded["assistant_masks"]]
        offsets = encoded["offset_mapping"]
        for place in range(1, len(ids)):
            mask[place] |= mask[place - 1] and offsets[place] == offsets[place - 1]
        if not any(mask) and turns[-1][0] == ASSISTANT:
            raise DataError(
                f"{_place(part, row)}: the chat template marks no token of the answer with {{% generation %}}: mend "
                "the template, or remove its marks."
            )
        yield ids, mask


def _after_prompts(part: Examples, rows: Sequence[Turns], tokenizer: PreTrainedTokenizerBase) -> Iterator[Written]:
    """The text after each prompt, which must begin the whole."""
    texts: list[str] = []
    spans: list[list[tuple[int, int]]] = []
    for row, turns in enumerate(rows):
        whole = _rendered(part, row, turns, tokenizer)
        texts.append(whole)
        spans.append(_answer_spans(part, row, turns, whole, tokenizer))
    for answers, (ids, offsets) in zip(spans, _with_offsets(tokenizer, texts, special=False), strict=True):
        yield ids, [any(begin < end <= last for begin, last in answers) for _, end in offsets]


def _answer_spans(
    part: Examples, row: int, turns: Turns, whole: str, tokenizer: PreTrainedTokenizerBase
) -> list[tuple[int, int]]:
    """Where the answers stand in a conversation as its template writes it."""
    spans: list[tuple[int, int]] = []
    for place, (role, _) in enumerate(turns):
        if role != ASSISTANT:
            continue
        before = _rendered(part, row, turns[:place], tokenizer, prompt=True)
        last = place == len(turns) - 1
        upto = whole if last else _rendered(part, row, turns[: place + 1], tokenizer)
        if not whole.startswith(before) or not whole.startswith(upto):
            number = len(spans) + 1
            raise DataError(
                f"{_place(part, row)}: what the chat template writes before answer {number} is not the beginning "
                "of the whole conversation, so its tokens cannot be told apart; use a template that marks the answers "
                "with {% generation %}."
            )
        ended = upto.rstrip()  # white space after the end token is never generated, so it does not train either
        spans.append((len(before), len(ended if ended.endswith(str(tokenizer.eos_token)) else upto)))
    return spans


def _rendered(
    part: Examples, row: int, turns: Turns, tokenizer: PreTrainedTokenizerBase, *, prompt: bool = False
) -> str:
    try:
        return str(tokenizer.apply_chat_template(_messages(turns), tokenize=False, add_generation_prompt=prompt))
    except (TemplateError, TypeError, ValueError) as error:
        raise _refused(part, row, error) from error


def _refused(part: Examples, row: int, error: Exception) -> DataError:
    reason = " ".join(str(error).split())
    return DataError(f"{_place(part, row)}: the chat template cannot write this conversation: {quoted(reason)}.")


def check_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a chat template that does not say where an answer begins.

    Raises:
        DataError: If it writes the same with and without `add_generation_prompt`, and then more before the answer.
    """
    probe = Examples(ids=("probe",), texts=("",))
    asked: Turns = ((USER, "probe"),)
    plain, prompt = (_rendered(probe, 0, asked, tokenizer, prompt=flag) for flag in (False, True))
    whole = _rendered(probe, 0, (*asked, (ASSISTANT, _PROBE)), tokenizer)
    if plain == prompt and not whole.removeprefix(prompt).lstrip().startswith(_PROBE):
        raise DataError(
            "the chat template of the tokenizer has no generation prompt: it writes nothing for add_generation_prompt, "
            "so a model could not tell that it is its turn to answer. Add the beginning of an answer to the template."
        )


def _with_offsets(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, special: bool
) -> Iterator[tuple[list[int], list[tuple[int, int]]]]:
    """Tokens of each text, and where in it each stands."""
    encoded = tokenizer(list(texts), return_offsets_mapping=True, add_special_tokens=special, verbose=False)
    yield from zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)


def _prompt_ids(part: Examples, tokenizer: PreTrainedTokenizerBase) -> Iterator[list[int]]:
    """Each row without its last answer, up to where an answer begins; of a plain text all of it."""
    rows = part.turns or [((USER, text),) for text in part.texts]
    for row, turns in enumerate(rows):
        before = turns[:-1] if turns[-1][0] == ASSISTANT else turns
        if turns[0][0] == TEXT or tokenizer.chat_template is None:
            text = turns[0][1] if turns[0][0] == TEXT else _plain_prompt(part, row, turns)
            ids = list(tokenizer(text, verbose=False)["input_ids"])
            yield ids[:-1] if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id else ids
        else:
            text = _rendered(part, row, before, tokenizer, prompt=True)
            yield list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
