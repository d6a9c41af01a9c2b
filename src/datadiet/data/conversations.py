"""Conversations: rows of messages, of a prompt with its answer, or of plain text, as turns of one form.

A turn is a pair of a role and a text. Roles are `system` (first, at most once), `user` and `assistant` in turn; the
whole of a plain text is one turn of the role `text`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from datadiet.data.columns import PROMPTS
from datadiet.data.layouts import plain_name
from datadiet.data.schema import ANSWERING, Columns, Turns
from datadiet.data.tables import Table, row_problem
from datadiet.errors import Problems, quoted

SYSTEM, USER, ASSISTANT, TEXT = "system", "user", "assistant", "text"
# the names that ShareGPT and others have for the parts of a message and for its roles
_ROLE, _CONTENT = ("role", "from"), ("content", "value")
_ROLES = {"human": USER, "gpt": ASSISTANT, "model": ASSISTANT, "bot": ASSISTANT, "chatgpt": ASSISTANT}
_UNREAD = ("tool_calls", "function_call", "reasoning_content", "reasoning", "thinking")
_MEND = "mend the row or remove it"


def conversations(table: Table, names: Columns, labels: str, ids: Sequence[str], problems: Problems) -> list[Turns]:
    """The turns of each row; every problem names the row and its id.

    Args:
        table: Any format.
        names: Of its columns: `messages`; or `prompt`, perhaps with `answer`, `context` and `system`; or `text`.
        labels: `required` (train, dev), `complete` (all rows have an answer or none: test) or `optional` (new prompts:
            answers are used only where every row has one).
        ids: Of the rows.
        problems: Receives one sentence per kind of problem.
    """

    def named(row: int) -> str:
        return "" if names.id == "" else f"id {quoted(ids[row])}: "  # a partition names its rows by their places

    read = _messages if names.messages else _prompts if names.prompt else _texts
    rows: list[Turns] = []
    wrong: dict[str, list[tuple[int, str]]] = {}
    for row in range(table.size):
        turns, problem = read(table, names, row)
        problem = problem or _problem(turns)
        rows.append(() if problem else turns)
        if problem:
            wrong.setdefault(problem.partition(":")[0], []).append((row, f"{named(row)}{problem}"))
    for found in wrong.values():
        problems.add(row_problem(table, found, _MEND))
    return rows if wrong else _settled(table, rows, labels, named, problems)


def has_roles(parts: Any) -> bool:
    """Whether the parts of a nested value are those of messages.

    Examples:
        >>> has_roles({"role": "user", "content": "2 + 2?"}), has_roles({"path": "a.png"})
        (True, False)
    """
    return isinstance(parts, Mapping) and any(name in parts for name in _ROLE)


def is_answered(turns: Turns) -> bool:
    """Whether a row has something to train on.

    Examples:
        >>> is_answered((("user", "2 + 2?"), ("assistant", "4"))), is_answered((("user", "2 + 2?"),))
        (True, False)
    """
    return bool(turns) and turns[-1][0] in ANSWERING


def prompt_text(turns: Turns) -> str:
    """What stands before the last answer, for people and for the search for repeats; of a plain text all of it.

    Examples:
        >>> prompt_text((("user", "2 + 2?"), ("assistant", "4")))
        '2 + 2?'
        >>> print(prompt_text((("user", "2 + 2?"), ("assistant", "4"), ("user", "And 3?"), ("assistant", "5"))))
        user: 2 + 2?
        assistant: 4
        user: And 3?
    """
    before = [turn for turn in turns[:-1] if turn[0] != SYSTEM] if len(turns) > 1 and is_answered(turns) else turns
    return before[0][1] if len(before) == 1 else "\n".join(f"{role}: {text}" for role, text in before)


def answer_text(turns: Turns) -> str:
    """The last answer; empty where there is none, and for plain text."""
    return turns[-1][1] if turns and turns[-1][0] == ASSISTANT else ""


# ---- one row


def _texts(table: Table, names: Columns, row: int) -> tuple[Turns, str]:
    text = table.columns[names.text or ""][row]
    if not isinstance(text, str):
        return (), "the text is empty" if text is None else f"the text is {quoted(text)} ({type(text).__name__})"
    return ((TEXT, text),), "" if text.strip() else "the text is empty"


def _prompts(table: Table, names: Columns, row: int) -> tuple[Turns, str]:
    """A prompt, its system message, its context and its answer, each text; or lists of messages, as TRL has them."""
    parts = (names.prompt, names.context, names.answer, names.system)
    prompt, context, answer, system = (table.columns[name][row] if name else None for name in parts)
    listed = any(isinstance(cell, (list, tuple)) for cell in (prompt, answer))
    for what, cell in (("prompt", prompt), ("context", context), ("answer", answer), ("system message", system)):
        may = (str, list, tuple) if listed and what in ("prompt", "answer") else (str,)
        if cell is not None and not isinstance(cell, may):
            return (), f"the {what} is no text: {quoted(cell)} ({type(cell).__name__})"
    if listed:
        if (context or "").strip():
            return (), f"a context stands beside messages, and is not read there: {quoted(context)}"
        said: tuple[tuple[str, Any], ...]
        said = ((SYSTEM, (system or "").strip() and system), (USER, prompt), (ASSISTANT, answer))
        messages: list[Any] = []
        for role, part in said:
            is_one = isinstance(part, str) and bool(part or role == ASSISTANT)
            messages += [{"role": role, "content": part}] if is_one else part or ()
        return _of_list(messages)
    if not (prompt or "").strip() and not (context or "").strip():
        return (), "the prompt is empty"
    whole = "\n\n".join(part for part in (prompt, context) if part and part.strip())
    turns = [(SYSTEM, system)] if system and system.strip() else []
    turns.append((USER, whole))
    if answer is not None:
        turns.append((ASSISTANT, answer))
    return tuple(turns), ""


def _messages(table: Table, names: Columns, row: int) -> tuple[Turns, str]:
    cell = table.columns[names.messages or ""][row]
    if cell is None and (other := next((name for name in _instead(table) if table.columns[name][row]), None)):
        return (), f"there are no messages, but a {quoted(other)}: give all rows the same columns"
    if isinstance(cell, str):
        try:
            cell = json.loads(cell)
        except (ValueError, RecursionError):
            return (), f"the messages are no JSON list: {quoted(cell)}"
    roles: Any
    texts: Any
    if isinstance(cell, Mapping):  # of columns, as older versions of `datasets` keep a list of messages
        roles, texts = (next((cell[key] for key in keys if key in cell), None) for keys in (_ROLE, _CONTENT))
        lists = isinstance(roles, (list, tuple)) and isinstance(texts, (list, tuple))
        if lists and len(roles) == len(texts):
            cell = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
    return _of_list(cell)


def _instead(table: Table) -> list[str]:
    """The columns that a row without messages may have its text in."""
    return [name for name in table.columns if plain_name(name) in (*PROMPTS, "text")]


def _of_list(cell: Any) -> tuple[Turns, str]:
    if not isinstance(cell, (list, tuple)) or not cell:
        return (), "there are no messages" if not cell else f"the messages are no list: {quoted(cell)}"
    turns = []
    for place, message in enumerate(cell):
        if not isinstance(message, Mapping):
            return (), f"a message is no mapping of role and content: message {place + 1} is {quoted(message)}"
        role, text = (next((message[key] for key in keys if key in message), None) for keys in (_ROLE, _CONTENT))
        if not isinstance(role, str):
            return (), f"a message has no role: message {place + 1}"
        text = _joined(text)
        problem = _unread(message) or ("" if isinstance(text, str) else "a message has no text")
        if problem:
            return (), f"{problem}: message {place + 1} ({quoted(role)})"
        role = role.strip().lower()
        turns.append((_ROLES.get(role, role), text))
    return tuple(turns), ""


def _joined(content: Any) -> Any:
    """The text of a message in parts, `[{"type": "text", "text": ...}]`, where all of them are text; else as it is."""
    if not isinstance(content, (list, tuple)) or not content:
        return content
    parts = [part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None for part in content]
    return content if any(not isinstance(part, str) for part in parts) else "".join(map(str, parts))


def _unread(message: Mapping[str, Any]) -> str:
    """What a message says beside its text that would change the training, and is not read."""
    content = next((message[key] for key in _CONTENT if key in message), None)
    kinds = [part.get("type") for part in content if isinstance(part, Mapping)] if isinstance(content, list) else []
    if strange := next((kind for kind in kinds if isinstance(kind, str) and kind != "text"), None):
        return f"a message has a part of the type {quoted(strange)}, and only text is read"
    for key in _UNREAD:
        if message.get(key):
            return f"a message has {key!r}, which is not read; put it into the text or remove it"
    if message.get("weight") not in (None, 1):
        return f"a message has the weight {message['weight']!r}, and only rows have weights; remove it"
    return ""


def _problem(turns: Turns) -> str:
    """What is wrong with the order of the roles, or with an empty text."""
    if not turns:
        return "there are no messages"
    if turns[0][0] == TEXT:
        return ""
    spoken = turns[1:] if turns[0][0] == SYSTEM else turns
    if not spoken:
        return "there is a system message and nothing else"
    for place, (role, text) in enumerate(spoken):
        number, expected = place + 1 + len(turns) - len(spoken), ASSISTANT if place % 2 else USER
        if role not in (SYSTEM, USER, ASSISTANT):
            return f"a role is unknown: message {number} is of {quoted(role)}, not of {expected!r}"
        if role != expected:
            return f"the roles do not alternate: message {number} is of {role!r}, not of {expected!r}"
        if not text.strip():
            if role == ASSISTANT and number == len(turns):
                return "the answer is empty"
            return f"a message is empty: message {number} ({role})"
    return ""


# ---- all rows


def _settled(
    table: Table, rows: list[Turns], labels: str, named: Callable[[int], str], problems: Problems
) -> list[Turns]:
    """The rows, without answers where only some have one and none is needed."""
    lacking = [row for row, turns in enumerate(rows) if not is_answered(turns)]
    if not lacking:
        return rows
    if labels == "optional":
        return [turns[:-1] if turns[-1][0] == ASSISTANT else turns for turns in rows]
    if labels == "complete" and len(lacking) == len(rows):
        return rows
    what = "there is no answer: the last message is the user's"
    problems.add(row_problem(table, [(row, f"{named(row)}{what}") for row in lacking], _MEND))
    return rows
