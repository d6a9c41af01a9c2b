"""Which column holds the text, the label and the other parts: the user's names first, then the usual names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace

from datadiet.data.layouts import plain_name
from datadiet.data.schema import Columns
from datadiet.data.tables import Table, listed
from datadiet.errors import Problems, unknown
from datadiet.registry import has

# compared without case and punctuation: "Text_A" is "texta"
PAIRS = (
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("texta", "textb"),
    ("text1", "text2"),
    ("sentencea", "sentenceb"),
    ("question", "sentence"),
    ("question", "passage"),
    ("query", "passage"),
    ("1string", "2string"),
)
TEXTS = (
    *("text", "sentence", "utterance", "query", "question", "review", "content", "texta"),
    *("commenttext", "comment"),
)
TOKENS = ("tokens", "words", "token", "word")
SLOTS = ("slots", "slotlabels", "slottags", "nertags", "tags", "bio", "tag", "slot")
TAGS = (
    *("nertags", "tags", "labels", "label", "slots", "slotlabels", "slottags", "bio", "postags"),
    *("tag", "ner", "slot"),
)
INTENTS = ("intent", "intentlabel", "label", "labels", "category", "class")
CLASSES = (
    *("label", "labels", "class", "category", "target", "intent", "goldlabel", "isduplicate", "sentiment", "answer"),
    *("quality", "score"),
)
LABELS = ("labels", "label", "tags", "categories", "category", "topics", "classes", "class", "emotions", "targets")
NUMBERS = ("label", "score", "similarity", "similarityscore", "relatednessscore", "labels", "rating", "target", "value")
MESSAGES = ("messages", "conversations", "conversation")
PROMPTS = ("prompt", "instruction", "question", "query", "input")
ANSWERS = ("response", "completion", "output", "answer")
CONTEXTS = ("context", "input")
SYSTEMS = ("system", "systemprompt")
IDS = ("id", "idx", "guid", "index", "uid", "exampleid")

OF_CONVERSATIONS = ("messages", "prompt", "answer", "context", "system")
FLAGS = {field.name: f"--{field.name.replace('_', '-')}-column" for field in fields(Columns)}


def idle(task: str) -> tuple[str, ...]:
    """The columns that have no effect for a task.

    Examples:
        >>> idle("causal-lm"), idle("regression")[:2]
        (('slots', 'text_pair', 'label', 'tokens', 'intent'), ('slots', 'intent'))
    """
    answers = has(task, "answers")
    without = {
        "slots": not has(task, "words"),
        "text_pair": has(task, "words") or answers,
        "label": has(task, "tags_only") or answers,
        "tokens": answers,
        "intent": not has(task, "one_class"),
        **dict.fromkeys(OF_CONVERSATIONS, not answers),
    }
    return tuple(name for name, unused in without.items() if unused)


def check_columns(columns: Columns, task: str) -> Problems:
    """Problems of the user's names: those that have no effect for the task.

    Examples:
        >>> check_columns(Columns(slots="tags"), "regression").found
        ["--slots-column has no effect for the task 'regression'; leave it out."]
    """
    problems = Problems()
    for name in idle(task):
        message = f"{FLAGS[name]} has no effect for the task {task!r}; leave it out."
        problems.check(getattr(columns, name) is None, message)
    both = columns.label is not None and columns.intent is not None and "intent" not in idle(task)
    problems.check(not both, "--label-column and --intent-column name the same thing here; give one of them.")
    return problems


def recognise(table: Table, task: str, requested: Columns, labelled: bool = True) -> tuple[Columns, Problems]:
    """The table's own names of the parts that the task needs; None where there is no such column.

    The class is in `label` for every task, so `intent` is always None in the result; the tags are in `slots`.

    Args:
        table: Any format.
        task: Its name.
        requested: The user's names, without problems of `check_columns`.
        labelled: Whether the targets must be there: the label, the slots, or both.

    Returns:
        The names, and the problems: missing columns, with those that exist.
    """
    problems = Problems()
    flags = {**FLAGS, "label": FLAGS["label" if requested.intent is None else "intent"]}
    requested = replace(requested, label=requested.label or requested.intent, intent=None)
    for field, flag in flags.items():
        name = getattr(requested, field)
        may_lack = field in ("label", "slots", "answer") and not labelled
        if name and name not in table.columns and not may_lack:
            problems.add(f"{table.place}: {flag}: {unknown('column', name, table.columns)}")
    if problems.found:
        return requested, problems
    usual = _usual(table, task, requested)
    _require(usual, table, task, labelled, problems)
    return usual, problems


def _usual(table: Table, task: str, requested: Columns) -> Columns:
    """`requested`, completed by usual names, for columns that the table has."""
    normalised = {plain_name(name): name for name in reversed(list(table.columns))}
    label = _present(requested.label, table, _first(_label_names(task), normalised))
    ids = _first(IDS, normalised) if requested.id is None else requested.id
    requested = replace(requested, id=ids, label=label)
    if has(task, "answers"):
        answer = _present(requested.answer, table, None)
        return _usual_conversations(replace(requested, answer=answer, label=None), normalised)
    if not has(task, "words"):
        return _usual_texts(requested, normalised)
    slots = _present(requested.slots, table, _first(_slot_names(task), normalised))
    tokens = requested.tokens or requested.text or _first((*TOKENS, *TEXTS), normalised)
    return replace(requested, tokens=tokens, text=None, slots=slots)


def _usual_texts(requested: Columns, normalised: Mapping[str, str]) -> Columns:
    """The text or the pair of a task on whole texts; tokens where there is neither."""
    if requested.tokens or requested.text:
        return requested
    if requested.text_pair is None:
        pair = next((pair for pair in PAIRS if normalised.keys() >= set(pair)), None)
        if pair is not None:
            return replace(requested, text=normalised[pair[0]], text_pair=normalised[pair[1]])
    # where the user has named the second half of a pair, the usual first halves count too
    names = [*TEXTS, *(one for one, _ in PAIRS if requested.text_pair)]
    text = _first(names, {key: name for key, name in normalised.items() if name != requested.text_pair})
    return replace(requested, text=text, tokens=None if text else _first(TOKENS, normalised))


def _usual_conversations(requested: Columns, normalised: Mapping[str, str]) -> Columns:
    """Messages; or else a prompt and its answer; or else plain text."""
    if requested.messages or (requested.text and not requested.prompt):
        return requested
    if not requested.prompt and not requested.answer and (messages := _first(MESSAGES, normalised)):
        return replace(requested, messages=messages)
    taken = {requested.answer, requested.context, requested.system}
    others = {key: name for key, name in normalised.items() if name not in taken}
    prompt = requested.prompt or _first(PROMPTS, others)
    answer = requested.answer or _first(ANSWERS, {key: name for key, name in others.items() if name != prompt})
    text = _first([name for name in TEXTS if name not in PROMPTS], normalised)
    if prompt is None or (answer is None and text and not requested.prompt):
        return replace(requested, text=text)
    left = {key: name for key, name in others.items() if name not in (prompt, answer)}
    # what is called a prompt holds its context already
    context = requested.context or (None if plain_name(prompt) == PROMPTS[0] else _first(CONTEXTS, left))
    system = requested.system or _first(SYSTEMS, left)
    return replace(requested, prompt=prompt, answer=answer, context=context, system=system)


def _label_names(task: str) -> Sequence[str]:
    own = {"joint": INTENTS, "numbers": NUMBERS, "label_sets": LABELS, "tags_only": (), "answers": ()}
    return next((names for trait, names in own.items() if has(task, trait)), CLASSES)


def _slot_names(task: str) -> Sequence[str]:
    return SLOTS if has(task, "joint") else TAGS


def _first(names: Sequence[str], normalised: Mapping[str, str]) -> str | None:
    return next((normalised[name] for name in names if name in normalised), None)


def _present(named: str | None, table: Table, usual: str | None) -> str | None:
    """The user's name, None where the table lacks it; the usual name where the user has given none."""
    return usual if named is None else named if named in table.columns else None


def _require(names: Columns, table: Table, task: str, labelled: bool, problems: Problems) -> None:
    """Report the parts that have no column."""
    joint, tags_words = has(task, "joint"), has(task, "words")
    missing: list[tuple[str, Sequence[str]]]
    missing = [] if names.text or names.tokens else [("tokens", TOKENS) if tags_words else ("text", TEXTS)]
    if has(task, "answers"):
        found = names.text or names.messages or names.prompt
        missing = [] if found else [("messages", MESSAGES), ("prompt", PROMPTS), ("text", TEXTS)]
        if labelled and names.prompt and not names.answer and not _of_messages(table, names.prompt):
            missing = [("answer", ANSWERS)]
    if labelled and names.label is None and _label_names(task):
        missing.append(("intent" if joint else "label", _label_names(task)))
    if labelled and tags_words and names.slots is None:
        missing.append(("slots", _slot_names(task)))
    there = listed(list(table.columns)) or "none"
    pairs = [name for name in table.columns if plain_name(name) == "chosen"]
    hint = f" Pairs of answers train with DPOTrainer; {{}} {pairs[0]} takes the better one." if pairs else ""
    nothing = table.textual and not names_found(names)
    header = " The first line is read as the header: add one, such as text,label, if it is a row." if nothing else ""
    if len(missing) > 1 and has(task, "answers"):
        problems.add(
            f"{table.place}: no column with messages, a prompt or a text; found {there}. Call it 'messages', 'prompt' "
            f"(with 'response' for the answer) or 'text', or name it with {FLAGS['messages']}, {FLAGS['prompt']} or "
            f"{FLAGS['text']}.{header}{hint.format(FLAGS['messages'])}"
        )
        return
    for part, usual in missing:
        problems.add(
            f"{table.place}: no column with the {part}; found {there}. "
            f"Call it {usual[0]!r} or name it with {FLAGS[part]} (in Python: columns=Columns({part}=...)).{header}"
            f"{hint.format(FLAGS[part]) if part == 'answer' else ''}"
        )


def _of_messages(table: Table, column: str) -> bool:
    """Whether a column of prompts holds lists of messages, which may have the answers too."""
    return table.size > 0 and isinstance(table.columns[column][0], (list, tuple))


def names_found(names: Columns) -> int:
    """How many parts have a column.

    Examples:
        >>> names_found(Columns(text="text", label="label"))
        2
    """
    return sum(getattr(names, field.name) is not None for field in fields(Columns))
