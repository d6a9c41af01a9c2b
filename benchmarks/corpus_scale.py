"""Corpora at scale: selection over many partitioned scores, rates of the engines, near duplicates, perplexity, kills.

    python -m benchmarks.corpus_scale select [--rows 100000000] [--parts 100]   time and memory of `datadiet select`
    python -m benchmarks.corpus_scale engines [--rows 130000]                   passes: local and Ray, 2 workers each
    python -m benchmarks.corpus_scale near [--rows 500000]                      --duplicates --near 0.8, 2 workers
    python -m benchmarks.corpus_scale perplexity [--rows 100000]                by n-grams and by a model, 2 workers
    python -m benchmarks.corpus_scale kills [--kills 10] [--engine ray]         SIGKILL to drivers and workers

`select` checks that exactly the rows above the cut are kept, and `near` that at least the planted repeats are found.
`engines` runs the engines in turn, each job from the command line; a rate is that of the pass, in which local workers
start anew, while those of Ray stay from the phase before: passes must be long, a minute and more. `kills` compares the
rows of each corpus that was killed and gone on with, sorted by id, with one that was left alone, byte for byte. The
exit code is 1 where a check fails.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import environment, keep_figures, parser_of, peak_bytes
from benchmarks.geometry import sentences
from benchmarks.snapshot import forked
from datadiet.types import Silent

TASK = "classification"
NEAR = 0.8
REPEATS = 2  # of the passes of each engine


# ---- selection


def select(rows: int, parts: int, home: Path, output: Path) -> int:
    """Choose among made-up scores; returns the exit code."""
    from datadiet.corpus.score_folder import MANIFEST, PARTS, open_scores, scores_of
    from datadiet.corpus.streamed import choose
    from datadiet.jobs.select_corpus import values_of

    began = time.perf_counter()
    _write_scores(home, rows, parts, MANIFEST, PARTS)
    print(f"{rows:,} scores in {parts} files, written in {time.perf_counter() - began:.1f} s", flush=True)
    folder, count, wrong = open_scores(home), rows // 10, 0
    found: dict[str, Any] = {}
    cases: list[tuple[str, dict[str, Any], int]] = [
        ("hardest", {}, 0), ("window", {"offset": 0.05}, 0), ("random", {}, 0), ("proportional", {}, 0),
        ("quota", {}, 0), ("hardest", {}, rows // 200),
    ]  # fmt: skip
    for score in ("spread", "ties"):
        for name, options, floor in cases if score == "spread" else cases[:1]:
            began, cpu = time.perf_counter(), time.process_time()
            kept = choose(values_of(folder, score), count, name, options, floor=floor, seed=0)
            number = sum(int(mask.sum()) for mask in kept.masks())
            seconds, cpu, peak = time.perf_counter() - began, time.process_time() - cpu, peak_bytes() / 1e9
            what = f"{name}{options or ''}{f' with a floor of {floor:,}' if floor else ''} on {score}"
            print(f"{what:56} {seconds:6.1f} s  ({cpu:.1f} s of CPU)  {number:,} rows  peak {peak:.2f} GB", flush=True)
            found[what] = {"seconds": round(seconds, 1), "peak_bytes": peak_bytes()}
            wrong += number != count
            if name == "hardest" and not floor:
                wrong += not _is_cut(folder.paths, score, kept.masks, scores_of)
    keep(output, "select", {"rows": rows, "parts": parts, "choices": found})
    return int(wrong > 0)


def keep(output: Path, name: str, figures: dict[str, Any]) -> None:
    """Into the results file, with the processes that wait for a core: the machine may do other work too."""
    load = round(os.getloadavg()[1], 1)
    keep_figures(output, name, {"environment": environment(), "load": load, **figures})


def _write_scores(home: Path, rows: int, parts: int, manifest: str, folder: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (home / folder).mkdir(parents=True)
    told = []
    rng = np.random.default_rng(0)
    base = rng.standard_normal(rows // parts + 1, dtype=np.float32)
    coded = pa.array((10 * rng.random(len(base), np.float32) ** 2).astype(np.int8))
    for part in range(parts):
        size = rows // parts + (part < rows % parts)
        groups = pa.DictionaryArray.from_arrays(coded[:size], [f"g{n}" for n in range(10)])
        spread = base[:size] * np.float32(1 + part / parts)
        table = pa.table({"group": groups, "spread": spread, "ties": np.round(spread).astype(np.float32)})
        pq.write_table(table, home / folder / f"{part:05}.parquet", compression="zstd")
        told.append({"name": str(part), "file": str(part), "seal": "", "rows": size, "path": f"{part:05}.parquet"})
    content = {
        "schema": 1, "data": "made up", "fingerprint": "0", "task": TASK, "scores": ["spread", "ties"], "job": {},
        "reading": {}, "complete": True, "parts": told, "unreadable": {},
    }  # fmt: skip
    (home / manifest).write_text(json.dumps(content), encoding="utf-8")


def _is_cut(paths: list[Path], score: str, masks: Callable[[], Any], read: Callable[[Path, str], Any]) -> bool:
    """Whether no row that is dropped is harder than one that is kept."""
    least, most = np.inf, -np.inf
    for path, mask in zip(paths, masks(), strict=True):
        values = read(path, score)
        least = min(least, values[mask].min(initial=np.inf))
        most = max(most, values[~mask].max(initial=-np.inf))
    return bool(most <= least)


# ---- engines and kills


def write_corpus(folder: Path, rows: int, parts: int) -> None:
    """Rows of two classes, of many lengths, in files of two kinds."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True)
    rng = random.Random(0)
    words = [f"word{number}" for number in range(200)]
    for part in range(parts):
        lines = [
            {"text": " ".join(rng.choices(words, k=rng.randrange(3, 20))), "label": rng.choice(["neg", "pos"])}
            for _ in range(rows // parts)
        ]
        if part % 2:
            pq.write_table(pa.Table.from_pylist(lines), folder / f"{part:03}.parquet")
        else:
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (folder / f"{part:03}.jsonl").write_text(text, encoding="utf-8")


def write_model(folder: Path, hidden: int, layers: int) -> None:
    """A classifier with random weights."""
    import torch
    import transformers

    from benchmarks.snapshot import tiny_tokenizer

    config = transformers.BertConfig(
        vocab_size=len(tiny_tokenizer()), max_position_embeddings=66, hidden_size=hidden, intermediate_size=4 * hidden,
        num_hidden_layers=layers, num_attention_heads=max(1, hidden // 32), id2label={0: "neg", 1: "pos"},
        label2id={"neg": 0, "pos": 1},
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)


def command(home: Path, output: str, *more: str) -> list[str]:
    """The command line of a scoring job with passes, texts and duplicates."""
    return [
        sys.executable, "-m", "datadiet", "score", str(home / "corpus"), "--task", TASK, "--scores", "length,el2n",
        "--model", str(home / "model"), "--precision", "fp32", "--duplicates", "--json",
        "--output", str(home / output), *more,
    ]  # fmt: skip


def content_of(folder: Path) -> bytes:
    """All rows of a scored corpus, sorted by id."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from datadiet.corpus.score_folder import open_scores

    tables = [pq.read_table(path) for path in open_scores(folder).paths]
    table = pa.concat_tables(tables).sort_by("id").combine_chunks().replace_schema_metadata({})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def engines(rows: int, home: Path, output: Path) -> int:
    """Passes by both engines, in turn; returns the exit code."""
    write_corpus(home / "corpus", rows, 24)
    write_model(home / "model", 128, 4)
    rates: dict[str, list[float]] = {"local": [], "ray": []}
    for number, engine in enumerate(("local", "ray", "ray", "local") * (REPEATS // 2)):
        began = time.perf_counter()
        done = subprocess.run(
            command(home, f"{engine}-{number}", "--engine", engine, "--workers", "2"),
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        line = [one for one in done.stderr.splitlines() if one.startswith("scoring:")][-1]
        rates[engine].append(float(line.split(" rows/s")[0].split()[-1].replace(",", "")))
        seconds, wall = rows / rates[engine][-1], time.perf_counter() - began
        print(f"{engine:6} {rows:,} rows in {seconds:.1f} s, {wall:.1f} s with start-up", flush=True)
    seconds_of = {engine: sum(rows / rate for rate in own) for engine, own in rates.items()}
    share = seconds_of["local"] / seconds_of["ray"]
    print(f"Ray has {share:.2f} of the rate of the local engine, 2 workers each")
    keep(output, "engines", {"rows": rows, "rates": rates, "share": round(share, 3)})
    return int(share < 0.9)


# ---- texts


class _Clock(Silent):
    """Keeps how long each phase of a job took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._name, self._began = "start", time.perf_counter()

    def phase(self, text: str) -> None:
        """End the phase before, and begin this one."""
        now = time.perf_counter()
        self.seconds[self._name] = self.seconds.get(self._name, 0.0) + now - self._began
        self._name, self._began = text.partition(":")[0], now


def timed(home: Path, name: str, **options: Any) -> dict[str, Any]:
    """A scoring job of texts with two workers: its rows, seconds, rates, phases, and the peak of the driver.

    `rate` is rows a second, `rate_of_cpu` rows per second of a core, by the driver and the workers together, which
    other work on the machine does not change much. What starts the first worker is left aside.
    """
    from datadiet.jobs.score_config import ScoreConfig
    from datadiet.jobs.score_corpus import score_corpus

    job = partial(ScoreConfig, task="causal-lm", workers=2, **options)
    if not (home / "few").is_dir():
        write_texts(home / "few", sentences(10), 2)
    score_corpus(job(data=str(home / "few"), output=home / f"{name}-few"))  # later workers are copies of its first one
    clock, cpu = _Clock(), cpu_seconds()
    content = score_corpus(job(data=str(home / "corpus"), output=home / name), clock)
    clock.phase("end")
    rows, seconds = content["rows"], content["seconds"]
    phases = {phase: round(own, 1) for phase, own in clock.seconds.items() if own >= 0.1}
    rates = {"rate": round(rows / seconds), "rate_of_cpu": round(rows / (cpu_seconds() - cpu))}
    print(f"{name}: {rows:,} rows, {rates}, {phases}, {content['reasons']}", flush=True)
    found = {"rows": rows, "seconds": seconds, "phases": phases, "reasons": content["reasons"]}
    return {**found, **rates, "peak_bytes": peak_bytes()}


def cpu_seconds() -> float:
    """Of this process and of those below it that have ended, or that have children which have."""
    own = os.times()
    ticks = sum(
        sum(map(int, Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[11:15]))
        for child in _children(os.getpid())
    )
    return own.user + own.system + own.children_user + own.children_system + ticks / os.sysconf("SC_CLK_TCK")


def write_texts(folder: Path, texts: list[str], parts: int) -> None:
    """Files with one text a line."""
    folder.mkdir(parents=True)
    size = -(-len(texts) // parts)
    for part in range(parts):
        some = texts[part * size : (part + 1) * size]
        (folder / f"{part:03}.txt").write_text("".join(f"{text}\n" for text in some), encoding="utf-8")


def near(rows: int, home: Path, output: Path) -> int:
    """Made-up sentences, of which one in ten repeats another, and one in ten nearly so; returns the exit code."""
    own = sentences(rows - 2 * (rows // 10))
    rng = random.Random(0)
    texts = own + [text.upper() for text in rng.choices(own, k=rows // 10)]
    nearly = [text for text in rng.choices(own, k=rows // 5) if len(text) > 120][: rows // 10]
    texts += [f"{text} also" for text in nearly]
    rng.shuffle(texts)
    write_texts(home / "corpus", texts, 16)
    found = timed(home, "near", duplicates=True, near=NEAR)
    found["planted"] = rows // 10 + len(nearly)
    keep(output, "near", {"near": NEAR, "parts": 16, **found})
    return int(found["reasons"]["duplicate"] < 0.99 * found["planted"])


def perplexity(rows: int, home: Path, output: Path) -> int:
    """Short texts, by words of the corpus, and by a language model of 0.13 million weights that reads bytes.

    The texts are those of `benchmarks.geometry`, 5 to 30 words; the model reads one in ten of them.
    """
    import torch

    from benchmarks.byte_lm import write_model as write_lm
    from datadiet.tasks.loading import load_causal

    texts = sentences(rows)
    write_texts(home / "corpus", texts, 4)
    keep(output, "perplexity-ngrams", timed(home, "ngrams", scores="ngram_perplexity"))
    shutil.rmtree(home / "corpus")
    write_texts(home / "corpus", texts[: rows // 10], 4)
    torch.manual_seed(0)
    load_causal(str(write_lm(home / "lm", "llama-0.1m", chat=False))).save_pretrained(home / "lm")
    model: dict[str, Any] = {"scores": "perplexity", "model": home / "lm", "options": {"precision": "fp32"}}
    keep(output, "perplexity-model", timed(home, "model", **model))
    return 0


def score(home: Path, output: str, workers: int | None = None, engine: str = "local") -> None:
    """A scoring job with passes, texts and duplicates, in this process."""
    from datadiet.jobs.score_config import ScoreConfig
    from datadiet.jobs.score_corpus import score_corpus

    own: dict[str, Any] = {"model": home / "model", "options": {"precision": "fp32"}, "duplicates": True, "near": NEAR}
    own |= {"workers": workers, "engine": engine}
    config = ScoreConfig(data=str(home / "corpus"), task=TASK, scores="length,el2n", output=home / output, **own)
    score_corpus(config)


def kills(number: int, seed: int, engine: str, home: Path, output: Path) -> int:
    """Kill and go on; returns the exit code."""
    import torch

    torch.set_num_threads(1)
    write_corpus(home / "corpus", 2400, 24)
    write_model(home / "model", 32, 2)
    os.waitpid(forked(str(home / "alone-log"), partial(score, home, "alone")), 0)
    alone, outcomes, bad = content_of(home / "alone"), [], 0
    cost = json.loads((home / "alone" / "corpus.json").read_text(encoding="utf-8"))["cost"]
    for attempt in range(number):
        rng = random.Random(f"{seed} {attempt}")
        victim, name = ("driver", "worker")[attempt % 2], f"killed-{attempt}"
        said = _killed(home, name, victim, rng, engine)
        log = str(home / f"{name}-log")
        if os.waitpid(forked(log, partial(score, home, name)), 0)[1]:
            said, same = f"{said}: {Path(f'{log}.err').read_text(encoding='utf-8')[-300:]}", False
        else:
            own = json.loads((home / name / "corpus.json").read_text(encoding="utf-8"))["cost"]
            counted = all(own[part] == cost[part] for part in ("examples_forward", "tokens_forward"))
            same = content_of(home / name) == alone and counted
        bad += not same
        outcomes.append(f"{said}: {'the same' if same else 'WRONG'}")
        print(f"{attempt + 1:3} {outcomes[-1]}", flush=True)
    print(f"{number - bad} of {number} killed corpora ended as the one that was left alone")
    keep(output, f"kills-{engine}", {"seed": seed, "kills": number, "same": number - bad, "outcomes": outcomes})
    return int(bad > 0)


def _killed(home: Path, output: str, victim: str, rng: random.Random, engine: str) -> str:
    """Start a job with two workers, and kill its driver or a worker once some files are there."""
    phase, folder = rng.choice((("begin", "begin"), ("values", "parts"), ("values", "parts")))
    files, pause = rng.randrange(1, 22), rng.uniform(0, 0.03)
    process = forked(str(home / f"{output}-log"), partial(score, home, output, 2, engine))
    ended = False
    while not ended and len([*(home / output / folder).glob("*-*")]) < files:
        ended = os.waitpid(process, os.WNOHANG) != (0, 0)
        time.sleep(0.002)
    time.sleep(pause)
    if ended:
        return "ended before it was killed"
    os.kill(rng.choice(_workers(process, engine)) if victim == "worker" else process, signal.SIGKILL)
    code = os.waitpid(process, 0)[1]
    return f"{victim} killed after {files} files of {phase}, and the job {'went on' if code == 0 else 'ended'}"


def _workers(driver: int, engine: str) -> list[int]:
    """Of a driver: what its fork server has started, or the processes of its Ray cluster that run a task."""
    below = [child for one in _children(driver) for child in _children(one)]
    if engine == "local":
        return below
    named = {one: Path(f"/proc/{one}/cmdline").read_bytes() for one in below}
    busy = [one for one, words in named.items() if words.startswith(b"ray::_called")]
    return busy or [one for one, words in named.items() if words.startswith(b"ray::")]


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def main() -> int:
    """Returns the exit code."""
    parser = parser_of(__doc__, "corpus_scale")
    parser.add_argument("part", choices=("select", "engines", "near", "perplexity", "kills"))
    parser.add_argument("--rows", type=int, help="of the corpus")
    parser.add_argument("--parts", type=int, default=100, help="files of scores")
    parser.add_argument("--kills", type=int, default=10, help="how many jobs are killed")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--engine", default="local", choices=("local", "ray"), help="whose jobs are killed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        if options.part == "select":
            return select(options.rows or 100_000_000, options.parts, home, options.output)
        if options.part == "engines":
            return engines(options.rows or 130_000, home, options.output)
        if options.part == "near":
            return near(options.rows or 500_000, home, options.output)
        if options.part == "perplexity":
            return perplexity(options.rows or 100_000, home, options.output)
        return kills(options.kills, options.seed, options.engine, home, options.output)


if __name__ == "__main__":
    sys.exit(main())
