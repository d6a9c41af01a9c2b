"""Broken input for everything that reads: an error of ours in one sentence is right, any other exception is a fault.

    python tests/fuzzing.py --seconds 60              # every target, guided by coverage (needs atheris; `make fuzz`)
    python tests/fuzzing.py parquet --seconds 600     # one target for longer
    python tests/fuzzing.py --replay                  # the kept corpus alone

`TARGETS` take bytes. The corpus of each stands in `tests/fuzzed/TARGET/`; what a run finds new stays in `build/fuzz/`.
A fault prints its traceback and the file that causes it: copy the file into the corpus, and mend the fault.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

CORPUS = Path(__file__).parent / "fuzzed"
FOUND = Path("build") / "fuzz"
TASKS = ("classification", "multi-label", "regression", "intent-slot", "token-classification", "causal-lm")
TEXT_KINDS = ("jsonl", "json", "csv", "tsv", "conll", "txt", "jsonl.gz")
MOST = 4000  # characters of a message, which may name all options
CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def allowed(step: Callable[[], Any]) -> Any:
    """The result of a step; None where it refuses in words. Anything else is raised."""
    from datadiet.errors import UserError

    try:
        return step()
    except UserError as error:
        for message in error.problems:
            assert len(message) <= MOST, f"a message of {len(message)} characters: {message[:300]}"
            assert not CONTROLS.search(message), f"control characters in a message: {message[:300]!r}"
        return None


@cache
def scratch() -> Path:
    """A folder of this process, in memory where there is such a place."""
    place = Path(tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    import atexit

    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return place


def read(kind: str, data: bytes) -> None:
    """A data file: read for every task, read as the rows that `select` writes, and as a whole set."""
    from datadiet.data.export import original_named, write_original
    from datadiet.data.load import load_data
    from datadiet.data.readers import read_named
    from datadiet.data.schema import Columns
    from datadiet.data.validation import examples_from

    name = f"train.{kind}"
    table = allowed(lambda: read_named(data, name, name, 0.01))
    for task in TASKS if table is not None else ():
        allowed(lambda task=task: examples_from(table, task, Columns(), "optional")[1].raise_any())
    rows = allowed(lambda: original_named(data, name, name, 0.01))
    for ending in (".jsonl", ".csv", ".tsv", ".parquet") if rows is not None else ():
        allowed(lambda ending=ending: write_original(rows, scratch() / f"rows{ending}"))
    folder = scratch() / kind
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(data)
    (folder / f"dev.{kind}").write_bytes(data)
    task = TASKS[len(data) % len(TASKS)]
    allowed(lambda: load_data(str(folder), task, dedupe=True, gz_limit=0.01))


class Choices:
    """A sequence of choices that bytes make; the first option when they are used up."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def of(self, options: Sequence[Any]) -> Any:
        first, self.data = self.data[:1] or b"\0", self.data[1:]
        return options[first[0] % len(options)]


def odd_parquet(data: bytes) -> bytes:
    """A Parquet file of odd types, names and metadata, chosen by bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    choices, arrays, names = Choices(data), [], []
    texts, bytes_ = pa.array(["good", "bad", None]), pa.array([b"ok", b"\xff\xfe", b"\0"], pa.binary())
    not_utf8 = pa.Array.from_buffers(pa.string(), 3, [None, *bytes_.buffers()[1:]])
    numbers, days = pa.array([0, 1, -1]), pa.array([2**31 - 1, -(2**31), 0], pa.int32())
    seconds = pa.array([2**62, -(2**62), 0])
    kinds = [
        *(lambda: texts, lambda: numbers, lambda: not_utf8, lambda: bytes_, lambda: days.cast(pa.date32())),
        *(lambda zone=zone: seconds.cast(pa.timestamp("us", zone)) for zone in (None, "UTC", "Nowhere/Land", "+25:99")),
        *(lambda: seconds.cast(pa.timestamp("ns")), lambda: seconds.cast(pa.duration("s"))),
        *(lambda: pa.array([[1, 0], [], None]), lambda: pa.array([["a", "b"], ["B-X"], []])),
        *(lambda: pa.array([[[1]], [[]], None]), lambda: pa.array([{"a": 1}, {"a": None}, None])),
        *(lambda: numbers.cast(pa.decimal128(30, 2)), lambda: pa.array([0.5, float("nan"), float("inf")])),
        *(lambda: texts.dictionary_encode(), lambda: pa.nulls(3), lambda: pa.array([True, None, False])),
        *(lambda: texts.cast(pa.large_string()), lambda: numbers.cast(pa.uint64(), safe=False)),
        lambda: pa.array([[("k", 1)], [], None], pa.map_(pa.string(), pa.int64())),
    ]
    for _ in range(choices.of(range(1, 5))):
        arrays.append(choices.of(kinds)())
        names.append(
            choices.of(
                (
                    "text",
                    "label",
                    "tokens",
                    "tags",
                    "id",
                    "labels",
                    "",
                    "a.b",
                    "intent",
                    "messages",
                    "prompt",
                    "response",
                    "x\x1b[2J",
                )
            )
        )
    names_only = [{"names": names} for names in (["no", "yes"], 5, "ab", [1, None], {"0": "a"})]
    nested = [{"feature": {"names": ["O", "B-X"]}}, [{"names": ["a"]}], {"feature": 3}]
    feature = choices.of([None, *names_only, *nested, [], "text", 7])
    info = choices.of(({"features": dict.fromkeys(names, feature)}, {"features": [feature]}, feature, [], None))
    content = json.dumps({"info": info}).encode()
    metadata = choices.of((content, content, b"", b"{", b"\xff", b"[]", b"null", b"[" * 9000, content[:-3]))
    try:
        table = pa.Table.from_arrays(arrays, names=names).replace_schema_metadata({b"huggingface": metadata})
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
    except (pa.ArrowException, OSError):
        return b""  # not a file that anybody could have written
    return sink.getvalue().to_pybytes()


def changed(content: Any, choices: Choices) -> Any:
    """JSON content with some parts replaced by odd ones, or removed."""
    if choices.of((0, 0, 1)):
        odd = (None, "", "x" * 500, "\ud800\x1b", -1, 2**70, 1e308, float("nan"), True, [], {}, [[]], {"a": {}}, [None])
        return choices.of(odd)
    if isinstance(content, dict) and content:
        name = choices.of(sorted(content))
        others = {key: value for key, value in content.items() if key != name}
        return others if choices.of((0, 0, 0, 1)) else {**others, name: changed(content[name], choices)}
    if isinstance(content, list) and content:
        place = choices.of(range(len(content)))
        return [*content[:place], changed(content[place], choices), *content[place + 1 :]]
    return changed(content, Choices(b"\2" + choices.data))


def variants(target: str, data: bytes) -> Iterator[bytes]:
    """The bytes themselves, and a file of the corpus that the bytes change."""
    yield data
    choices = Choices(data[1:])
    for path in kept(target):
        content = path.read_bytes()
        if path.suffix == ".json" and content != data:
            yield json.dumps(changed(json.loads(content), choices)).encode()


def config(data: bytes) -> None:
    """A file of options, and all checks that need no data."""
    from datadiet.config import option_problems, read_config, task_problems

    path = scratch() / "config.yaml"
    path.write_bytes(data)
    settings = allowed(lambda: read_config(path))
    if settings is not None:
        option_problems(settings)
        task_problems(settings)


def score_file(data: bytes) -> None:
    """A score file as it is, and as the metadata of one that is right otherwise."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from datadiet.store.score_file import read_scores, write_scores

    path = scratch() / "scores.parquet"
    path.write_bytes(data)
    allowed(lambda: read_scores(path))
    table = pa.table({"row": [0, 1], "id": ["a", "b"], "label": ["x", "y"], "el2n": pa.array([0.5, 1.0], pa.float32())})
    for metadata in variants("score_file", data):
        pq.write_table(table.replace_schema_metadata({b"datadiet": metadata}), path)
        file = allowed(lambda: read_scores(path))
        if file is not None:
            allowed(lambda file=file: write_scores(scratch() / "scores.csv", file, force=True))


def run_folder(data: bytes) -> None:
    """The result of a run, and the manifest of its scores, in a folder of its own."""
    from datadiet.reporting.run_page import dev_curve, run_markdown
    from datadiet.store.dynamics import dynamics
    from datadiet.store.run_folder import checked_result, tested_metrics

    folder = scratch() / "run"
    (folder / "scores").mkdir(parents=True, exist_ok=True)
    for content in variants("run_folder", data):
        (folder / "result.json").write_bytes(content)
        (folder / "scores" / "_manifest.json").write_bytes(content)
        result = allowed(lambda: checked_result(folder))
        if result is not None:
            allowed(lambda: run_markdown(folder))
            allowed(lambda result=result: (dev_curve(result), tested_metrics(result)))
        allowed(lambda: dynamics(folder))


TARGETS: Mapping[str, Callable[[bytes], None]] = {
    **{kind: lambda data, kind=kind: read(kind, data) for kind in (*TEXT_KINDS, "parquet")},
    "table": lambda data: read("parquet", odd_parquet(data)),
    "config": config,
    "score_file": score_file,
    "run_folder": run_folder,
}


def kept(target: str) -> Iterator[Path]:
    """The corpus of a target."""
    folder = CORPUS / target
    return iter(sorted(folder.iterdir()) if folder.is_dir() else ())


def guided(target: str, seconds: int, seed: int) -> None:
    """Let atheris look for inputs that reach new lines; never returns."""
    import atheris

    with atheris.instrument_imports(include=["datadiet"], enable_loader_override=False):
        TARGETS[target](b"")  # imports what the target needs
    found = FOUND / target
    found.mkdir(parents=True, exist_ok=True)
    limits = [f"-max_total_time={seconds}", f"-seed={seed}", "-timeout=20", "-rss_limit_mb=4096"]
    limits.append("-print_final_stats=1")
    folders = [str(found), *([str(CORPUS / target)] if (CORPUS / target).is_dir() else [])]
    atheris.Setup([sys.argv[0], *limits, f"-artifact_prefix={FOUND}/{target}-", *folders], TARGETS[target])
    atheris.Fuzz()


def main() -> None:
    """Run the targets, each in a process of its own."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("targets", nargs="*", help=f"of {', '.join(TARGETS)} (default: all)")
    parser.add_argument("--seconds", type=int, default=60, help="over all targets (default: 60)")
    parser.add_argument("--seed", type=int, default=0, help="of the changes (default: 0, another each time)")
    parser.add_argument("--replay", action="store_true", help="the kept corpus alone")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    targets = options.targets or list(TARGETS)
    warnings.simplefilter("ignore")
    if options.here:
        guided(targets[0], options.seconds, options.seed)
    if options.replay:
        for target in targets:
            for path in kept(target):
                TARGETS[target](path.read_bytes())
        return
    FOUND.mkdir(parents=True, exist_ok=True)
    inputs, failed = 0, []
    for target in targets:
        share = str(max(1, options.seconds // len(targets)))
        command = [sys.executable, __file__, target, "--here", "--seconds", share, "--seed", str(options.seed)]
        log = FOUND / f"{target}.log"
        with log.open("w") as stream, subprocess.Popen(command, stdout=stream, stderr=stream) as process:
            try:
                code = process.wait(int(share) + 120)
            except subprocess.TimeoutExpired:
                process.kill()
                code = 1
        text = log.read_text(errors="replace")
        runs = re.search(r"number_of_executed_units: (\d+)", text)
        count = int(runs[1]) if runs else 0
        if re.search(r"^Done \d+ runs", text, re.MULTILINE):
            code = 0  # pyarrow's threads may keep a process from ending
        inputs += count
        sys.stdout.write(f"{target:12} {count:>9,} inputs" + ("\n" if code == 0 else "  FAULT\n"))
        sys.stdout.flush()
        if code:
            failed.append(target)
            sys.stdout.write(f"{text[:3000]}\n{text[-1000:]}\n")
    sys.stdout.write(f"{inputs:,} inputs, {len(failed)} of {len(targets)} targets with a fault\n")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
