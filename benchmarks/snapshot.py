"""A snapshot of what the package does, to hold beside another one: a change of its inside must leave both the same.

    python -m benchmarks.snapshot FOLDER [--parts runs,help] [--messages]    # of the package that is imported
    python -m benchmarks.snapshot FOLDER --against OTHER                     # what differs; exit code 1 if so

Parts: `runs` (toy runs of the command line, the Trainer and a loop: their tables, results and what they say),
`help` (of every command), `api` (signatures of `datadiet.__all__`), `methods`, and with `--messages` the text of every
exception that the test suite expects and what it reads from standard error, whatever test it comes from. Only the
command line, `datadiet.__all__` and the files of a run folder are used, so the script outlives a refactoring. Times,
versions, paths and the environment are left out. Take both snapshots on one machine.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import inspect
import json
import os
import random
import re
import runpy
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.forking import started_copy

PARTS = ("runs", "help", "api", "methods")
MESSAGES = "SNAPSHOT_MESSAGES"  # the folder in which the plugin writes the messages of the tests
ROOT = Path(__file__).resolve().parent.parent
# keys of JSON
TIMED = re.compile(r"_s$|seconds|versions?$|^environment$|^crc32$|^files$|_hours?$|^(finetune|total)_saved|^time")
FRAMES = re.compile("[\u2500-\u257f]+")
NOISE = re.compile(r"it/s|\?it|examples/s|^\[rank|^\[transformers\]|^\{'")  # progress bars, and what libraries say
PLAIN = {"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "120", "PYTHONWARNINGS": "ignore"}  # the tests have their own
QUIET = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONHASHSEED": "0"}

# ---- toy data and a tiny model ----

KEYWORDS = ("amber", "birch", "cobalt", "denim", "ember")
FILLERS = ("the", "a", "of", "and", "to", "in", "it", "is", "was", "for", "on", "with", "as", "by", "at", "from")
SPANS = {"artist": ("miles davis", "nina simone", "bach"), "city": ("paris", "new york", "lima")}
CUES = {"play_music": ("play", "artist"), "get_weather": ("weather", "city"), "book_table": ("book table", "city")}


def sentence(rng: random.Random, *words: str) -> str:
    """Fillers around the words."""
    chosen = [*rng.choices(FILLERS, k=rng.randint(3, 9)), *words]
    rng.shuffle(chosen)
    return " ".join(chosen)


def toy_row(kind: str, number: int, rng: random.Random) -> dict[str, Any]:
    """One row whose label follows from its words; of `noisy` one in eight is wrong, `repeats` has 24 texts."""
    if kind == "wanted":  # of one class: what a corpus of three is chosen for
        return {"text": sentence(rng, KEYWORDS[0]), "label": KEYWORDS[0]}
    level = number % (2 if kind == "pairs" else 5 if kind == "regression" else 3)
    word = KEYWORDS[level]
    if kind in ("classification", "noisy", "repeats"):
        rng = random.Random(number % 24) if kind == "repeats" else rng
        wrong = (kind == "noisy" and number % 8 == 0) or (kind == "repeats" and number == 26)
        return {"text": sentence(rng, word), "label": KEYWORDS[(level + 1) % 3] if wrong else word}
    if kind == "pairs":
        return {"sentence1": sentence(rng), "sentence2": sentence(rng, word), "label": word}
    if kind == "regression":
        label = round(level + rng.uniform(0, 0.3), 3)
        return {"sentence1": sentence(rng, word), "sentence2": sentence(rng, word), "label": label}
    if kind == "causal-lm":
        return {"prompt": sentence(rng, word), "response": f"{word} {level}"}
    if kind == "multi-label":
        words = [word for word in KEYWORDS[:3] if rng.random() < 0.5]
        return {"text": sentence(rng, *words), "labels": words}
    intent = sorted(CUES)[level]
    cue, slot = CUES[intent]
    span = rng.choice(SPANS[slot]).split()
    lead = [*rng.choices([*FILLERS, "zyxwv"], k=rng.randint(0, 4)), *cue.split()]
    tags = ["O"] * len(lead) + [f"B-{slot}", *[f"I-{slot}"] * (len(span) - 1)]
    names = {"slots": tags, "intent": intent} if kind == "intent-slot" else {"ner_tags": tags}
    return {"tokens": lead + span, **names}


def write_data(folder: Path, kind: str, count: int, splits: str = "train dev test") -> None:
    folder.mkdir(parents=True)
    for split in splits.split():
        rng = random.Random(f"{folder.name}-{split}")
        rows = range(count if split == "train" else count // 3)
        lines = (json.dumps({"id": f"{split}-{row}", **toy_row(kind, row, rng)}) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")


def tiny_tokenizer() -> Any:
    from transformers import BertTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz-"
    words = " ".join([*FILLERS, *KEYWORDS, *(cue for cue, _ in CUES.values()), *sum(SPANS.values(), ())]).split()
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters), *words]
    return BertTokenizer(vocab={piece: place for place, piece in enumerate(dict.fromkeys(pieces))}, model_max_length=64)


def tiny_model(auto: str, **options: Any) -> Any:
    import torch
    import transformers

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.BertConfig(
        vocab_size=len(tiny_tokenizer()), max_position_embeddings=66, initializer_range=0.2, **sizes, **options
    )
    torch.manual_seed(0)
    return getattr(transformers, auto).from_config(config)


def prepare() -> None:
    """All data, and the model, in the working folder."""
    from benchmarks.byte_lm import write_model

    tasks = ("classification", "regression", "multi-label", "intent-slot", "token-classification", "causal-lm")
    for kind in (*tasks, "pairs", "wanted"):
        write_data(Path("data", kind), kind, 96)
    write_data(Path("data/noisy"), "noisy", 320)
    write_data(Path("data/repeats"), "repeats", 48)
    write_data(Path("data/other"), "classification", 96)
    write_data(Path("data/alone"), "classification", 60, splits="train")
    tiny_model("AutoModel").save_pretrained("tiny")
    tiny_tokenizer().save_pretrained("tiny")
    write_model(Path("tiny-lm"), "llama-0.1m")
    Path("file.yaml").write_text(
        "data: data/classification\ntask: classification\nmodel: tiny\nepochs: 3\nbatch_size: 8\nlearning_rate: 1e-2\n"
        "precision: fp32\nstatic: true\nselect: both_ends(hard=0.6)\n"
    )
    Path("broken.jsonl").write_text('{"text": "a", "label": "b"}\n{"text": \n')


# ---- what is run ----

USUAL = "--model tiny --epochs 4 --batch-size 8 --learning-rate 1e-2 --precision fp32"
# name, data (the task too, unless it is named), options of `datadiet finetune`
FINETUNE = """
usual           classification        --keep 0.5
full            classification        --keep 1 --keep-checkpoints --lr-schedule cosine
holdout         other                 --keep 1 --epochs 2 --seed 1
guard           noisy                 --keep 0.3 --warmup-epochs 2 --refresh-every 1
guard-joint     intent-slot           --offset auto --select uncertain --rescore all --early-stopping 2
pairs           pairs                 --score cross_entropy --select uncertain --history ema --rescore all \
                                      --refresh-every 1
regression      regression            --score absolute_error --select epsilon --history mean --rescore dropped \
                                      --batch-size 4 --gradient-accumulation 2
multi           multi-label           --score entropy --select proportional --class-weights balanced \
                                      --label-smoothing 0.1 --early-stopping 1
tags            token-classification  --score margin --select stratified --class-weights balanced --rescore all
joint           intent-slot           --combine mean --select uncertain --rescore dropped --floor 2 --alpha 0.3
joint-lora      intent-slot           --lora 2 --gradient-checkpointing --keep 0.4
steps           classification        --keep 1:0.7,2:0.4 --floor 4 --anneal-epochs 1 --select easiest \
                                      --refresh-every 1
static          classification        --static --score aum --select ccs(beta=0.1,strata=5) \
                                      --max-grad-norm 0
weights         repeats               --dedupe --dedupe-weights --score cross_entropy --select infobatch
tolerance       classification        --tolerance 20 --epochs 7
tolerance-tags  token-classification  --tolerance 5 --epochs 6 --score cross_entropy
teacher         classification        --teacher full --teacher-temperature 3 --select random --keep 0.3 --cache cache
teacher-again   classification        --teacher full --teacher-temperature 3 --select random --keep 0.3 --cache cache \
                                      --seed 1
teacher-joint   intent-slot           --teacher joint --select window --offset 0.1
k-center        pairs                 --select k_center --refresh-every 1
d2              classification        --select d2_pruning(neighbours=3) --floor 2
balanced        classification        --select balanced(select=uncertain) --score forgetting
directed        classification        --select directed(directions.amber=easy,directions.birch=hard)
seta            classification        --select seta --history ema(alpha=0.5,c=0.5)
last-layer      classification        --score grand_last_layer --select drop_quota --refresh-every 1
prototypes      classification        --score prototypes(clusters=4,metric=cosine) --select moderate
length          multi-label           --score length(unit=characters)
vog             classification        --score vog --scores-from full --static
scores-from     classification        --scores-from full --warmup-epochs 0 --rescore all
selective       classification        --select selective_backprop --keep 0.4
divbs           classification        --select divbs
lm              causal-lm             --model tiny-lm --max-length 64 --epochs 2 --keep 1 --keep-checkpoints
lm-teacher      causal-lm             --model tiny-lm --max-length 64 --epochs 1 --keep 1
short           classification        --keep 1 --max-steps 10 --lr-schedule constant_with_warmup
alone           alone                 --dev-share 0.2 --train-rows 40 --drop-overlap --data-seed 3 --checkpoint-every 0
from-file       classification        --scores-from scores.parquet --score scdp
reducible       classification        --scores-from folds.parquet --select top_reducible
"""
# name and other commands; they come after the runs above but the last two
OTHERS = """
resumed         finetune --resume resumed
config-file     finetune --config file.yaml --no-static --keep 0.6 --output config-file
score           score data/classification --task classification --model full --teacher usual --holdout holdout \
    --precision fp32 --probabilities --output scores.parquet --json \
    --scores el2n,cross_entropy,margin,entropy,\
confidence,variability,correctness,threshold_closeness,forgetting,aum,tracin_self_influence,grand_last_layer,grand,vog,\
self_influence,tracin,reducible_loss,irreducible_loss,teacher_el2n,teacher_divergence,prototypes(clusters=3),moderate,\
neighbour_distance,scdp,length(unit=characters),influence,effort,dealrec
score-queries   score data/classification --task classification --model full --queries data/wanted --precision fp32 \
    --scores dsir,classifier,rds_plus,less(dimensions=64),ngram_perplexity --output queries.parquet
score-lm        score data/causal-lm --task causal-lm --model lm --teacher lm-teacher --precision fp32 \
    --scores perplexity,ifd,predictive_strength,capability_gap --output lm.parquet
score-lm-folds  score data/causal-lm --task causal-lm --base-model tiny-lm --epochs 1 --folds 2 --max-length 64 \
    --precision fp32 --scores held_out_perplexity --output lm-folds.parquet
score-corpus    score data/wanted --task classification --queries data/wanted --scores length,dsir,ngram_perplexity \
    --output corpus
score-folds     score data/classification --task classification --base-model tiny --epochs 2 --folds 2 \
    --learning-rate 1e-2 --precision fp32 --probabilities --scores negative_pvi,irreducible_loss,reducible_loss \
    --output folds.parquet
score-joint     score data/intent-slot --task intent-slot --base-model tiny --epochs 3 --run scoring \
    --learning-rate 1e-2 --precision fp32 --scores el2n,aum,grand,vog --output joint.parquet
score-encoder   score data/regression --task regression --encoder tiny \
    --scores prototypes,scdp,metadata(column=label) --output encoder.jsonl
select          select scores.parquet --data data/classification --score el2n --keep 0.3 --floor 3 \
    --drop-suspects 0.1 --with-score --output kept.jsonl
select-json     select scores.parquet --data data/classification --score aum --select ccs(strata=4) --count 20 \
    --output kept.csv --json
select-cover    select scores.parquet --data data/classification --score vog --select k_center --dedupe --near 0.7 \
    --keep 0.4 --output kept
predict         predict data/classification --model full/model --output predicted.jsonl
predict-joint   predict data/intent-slot --model joint/model --output predicted.csv --json
predict-tags    predict data/token-classification --model tags/model
predict-multi   predict data/multi-label --model multi/model --output predicted.parquet
predict-text    predict --model regression/model --text amber --text-pair birch
compare         compare data/classification --task classification --methods el2n --baselines full,short --seeds 2 \
    --jobs 2 --output compared --model tiny --epochs 3 --batch-size 16 --learning-rate 1e-2 --precision fp32
report          report guard
report-compare  report compared
wrong           finetune data/noisy --task classificatoin --keep 70 --score el2m --warmup-epochs 9 --output wrong
wrong-data      finetune broken.jsonl --task classification --model tiny --output wrong
wrong-folder    finetune data/noisy --task classification --model tiny --output full
wrong-flag      select --keap 0.5
"""
FILES = {  # what else these leave
    "score": ["scores.parquet"], "score-folds": ["folds.parquet"], "score-joint": ["joint.parquet", "scoring"],
    "score-encoder": ["encoder.jsonl"], "score-queries": ["queries.parquet"], "score-lm": ["lm.parquet"],
    "score-lm-folds": ["lm-folds.parquet"], "score-corpus": ["corpus/corpus.json"],
    "select": ["kept.jsonl"], "select-json": ["kept.csv"],
    "select-cover": ["kept/train.jsonl", "kept/dev.jsonl"], "predict": ["predicted.jsonl"],
    "predict-joint": ["predicted.csv"], "predict-multi": ["predicted.parquet"],
    "compare": ["compared/comparison.json", "compared/runs/el2n-0.5-seed1"], "report": ["guard/report.md"],
    "report-compare": ["compared/report.md"], "loop": ["loop.parquet"], "two": ["two/rank0.json", "two/rank1.json"],
    "one": ["dynamics.parquet", "labels.parquet"],
}  # fmt: skip


def command_lines() -> Iterator[tuple[str, list[str]]]:
    """Name and arguments of each run of the command line, in order; of two equal options the last one counts."""
    runs = {}
    for line in FINETUNE.strip().splitlines():
        name, data, options = line.split(maxsplit=2)
        known = ("pairs", "noisy", "repeats", "other", "alone")
        task = "classification" if data in known else data
        runs[name] = ["finetune", f"data/{data}", "--task", task, "--output", name, *USUAL.split(), *options.split()]
    last = ("from-file", "reducible")
    yield from ((name, line) for name, line in runs.items() if name not in last)
    for line in OTHERS.strip().splitlines():
        name, arguments = line.split(maxsplit=1)
        yield name, arguments.split()
    yield from ((name, runs[name]) for name in last)


def datadiet(arguments: list[str]) -> None:
    """`python -m datadiet ARGUMENTS`, in this process."""
    sys.argv = ["datadiet", *arguments]
    runpy.run_module("datadiet", run_name="__main__", alter_sys=True)


class Killer:
    """Listens to a run and ends its process after the second epoch."""

    def __getattr__(self, name: str) -> Callable[[Any], None]:
        return lambda told: os._exit(0) if name == "epoch_ended" and told.epoch == 1 else None


def killed() -> None:
    import datadiet as dd

    config = dd.FinetuneConfig(
        data="data/intent-slot", task="intent-slot", model="tiny", output="resumed", epochs=4, batch_size=8,
        learning_rate=1e-2, precision="fp32", rescore="dropped", history="ema", select="epsilon", refresh_every=1,
    )  # fmt: skip
    dd.finetune(config, listener=Killer())


def trainer_of(folder: str, diet: Any, batch: int, **options: Any) -> Any:
    """A `DietTrainer` over the toy classification."""
    import datasets
    import transformers

    import datadiet as dd

    tokenizer = tiny_tokenizer()
    examples = dd.load_data("data/classification", "classification").splits["train"]
    inputs = dict(tokenizer(list(examples.texts), max_length=32, truncation=True))
    data = datasets.Dataset.from_dict({**inputs, "labels": [KEYWORDS.index(name) for name in examples.labels]})
    model = tiny_model("AutoModelForSequenceClassification", num_labels=3, hidden_dropout_prob=0.0)
    model.accepts_loss_kwargs = False
    arguments = transformers.TrainingArguments(
        output_dir=folder, num_train_epochs=4, per_device_train_batch_size=batch, learning_rate=5e-3, use_cpu=True,
        save_strategy="no", report_to="none", disable_tqdm=True, dataloader_pin_memory=False, seed=3, **options,
    )  # fmt: skip
    collate = transformers.DataCollatorWithPadding(tokenizer)
    return dd.DietTrainer(model=model, args=arguments, train_dataset=data, data_collator=collate, diet=diet)


def one_process() -> None:
    """A Trainer with a probe, and the tables that are made of its run."""
    import pandas as pd

    import datadiet as dd

    trainer = trainer_of("one", dd.Diet(keep=0.5, score="cross_entropy", select="infobatch", seed=2), 4)
    trainer.add_callback(dd.Probe(trainer, every=7, epochs=2, share=0.5))
    trainer.train()
    dd.dynamics("one").save("dynamics.parquet")
    probed = trainer_of("probed", dd.Diet(keep=0.6, select="random"), 8)
    probed.add_callback(dd.Probe(probed, every=6, probabilities=True))
    probed.train()
    labels, probabilities = dd.cleanlab_inputs("probed")
    pd.DataFrame({"label": labels, "probabilities": probabilities.tolist()}).to_parquet("labels.parquet")


def two_processes(rank: int, port: int) -> None:
    import torch

    import datadiet as dd

    together = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.update(together, RANK=str(rank), LOCAL_RANK=str(rank))
    trainer = trainer_of("two", dd.Diet(select="hardest", keep=0.5, refresh_every=1, rescore="dropped"), 2)
    trainer.train()
    told = {"plan": trainer.diet.plan(3).rows.tolist(), "steps": trainer.state.global_step}
    told["rate"] = trainer.lr_scheduler.get_last_lr()[0]
    Path(f"two/rank{rank}.json").write_text(json.dumps(told))
    torch.distributed.destroy_process_group()


def plain_loop() -> None:
    """A loop without a Trainer, over points."""
    import torch

    import datadiet as dd

    torch.manual_seed(0)
    points, model = torch.randn(40, 4), torch.nn.Linear(4, 3)
    data = [{"x": point, "labels": int(point.argmax()) % 3} for point in points]
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    diet = dd.Diet(select="hardest", keep="1:0.7,3:0.4", refresh_every=1, score="margin", floor=2, offset=0.05)
    groups = torch.tensor([row["labels"] for row in data]).numpy()
    for epoch in dd.epochs(diet, 5, num_examples=40, batch_size=8, groups=groups):
        for batch in epoch.loader(data, batch_size=8):
            logits = model(batch.inputs["x"])
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(logits, batch.labels).backward()
            optimizer.step()
            epoch.observe(batch.rows, logits.detach(), batch.labels)
    diet.history.to_pandas().to_parquet("loop.parquet")


def forked(name: str, work: Callable[[], None]) -> int:
    """Start a process that has everything imported; its output goes to NAME.out and NAME.err."""
    with open(f"{name}.out", "wb") as out, open(f"{name}.err", "wb") as err:
        return started_copy(work, stdout=out, stderr=err, seconds=300)


def runs_part(folder: Path) -> None:
    """Everything in a temporary working folder; then one JSON file per run."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = int(listening.getsockname()[1])
    lines = list(command_lines())
    jobs: list[tuple[str, list[Callable[[], None]]]] = [("prepare", [prepare]), ("killed", [killed])]
    jobs += [(name, [lambda arguments=arguments: datadiet(arguments)]) for name, arguments in lines]
    jobs += [("one", [one_process]), ("loop", [plain_loop])]
    jobs += [("two", [lambda rank=rank: two_processes(rank, port) for rank in (0, 1)])]
    import torch
    import transformers

    import datadiet as dd

    torch.set_num_threads(1)
    _ = transformers.Trainer, dd.finetune, dd.DietTrainer, dd.report, dd.score_data  # imported once, for all
    home, codes = os.getcwd(), {}
    with tempfile.TemporaryDirectory(prefix="snapshot-") as work:
        os.chdir(work)
        for name, works in jobs:
            began = time.perf_counter()
            started = [forked(name if not rank else f"{name}-{rank}", work) for rank, work in enumerate(works)]
            codes[name] = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in started]
            print(f"{name}: {codes[name]} in {time.perf_counter() - began:.1f} s", flush=True)
        for name, exits in codes.items():
            found = {"exit": exits} | {stream: spoken(f"{name}.{stream}", work) for stream in ("out", "err")}
            for left in [name, *FILES.get(name, [])]:
                found |= {left: contents(Path(left), work)} if Path(left).exists() else {}
            write(folder / "runs" / f"{name}.json", found)
        os.chdir(home)


# ---- what is kept of it ----


def without_times(text: str) -> str:
    """Addresses, and numbers of seconds and the like, made the same."""
    text = re.sub(r"0x[0-9a-f]{6,}", "0x", text)
    return re.sub(r"-?\b\d[\d.,:]*(e-?\d+)? ?(ms|s|sec|seconds?|min|minutes?|h|hours?)\b", "# s", text)


def spoken(file: str, work: str) -> Any:
    """What a process said: JSON, or each line once without frames; without numbers where many of them are times."""
    text = Path(file).read_text(encoding="utf-8").replace(work, "<work>")
    with suppress(json.JSONDecodeError):
        return cleaned(json.loads(text), work)
    lines = [" ".join(FRAMES.sub(" ", line).split()) for line in without_times(text).splitlines()]
    exact = file.startswith(("select.", "select-", "predict")) or file.endswith("err")
    kept = (line if exact else re.sub(r"(?<![A-Za-z])-?\d[\d.,:]*(e-?\d+)?", "#", line) for line in lines)
    told = list(dict.fromkeys(line for line in kept if line and not NOISE.search(line)))
    return sorted(told) if file.startswith("compare.") else told  # two runs at a time end in any order


def cleaned(value: Any, work: str) -> Any:
    """JSON without times, environment and paths."""
    if isinstance(value, dict):
        return {key: cleaned(held, work) for key, held in value.items() if not TIMED.search(key)}
    if isinstance(value, list):
        return [cleaned(held, work) for held in value]
    return value.replace(work, "<work>") if isinstance(value, str) else value


def digest(held: object) -> str:
    return hashlib.sha256(repr(held).encode()).hexdigest()[:12]


def columns_of(table: Any) -> dict[str, str]:
    """Of each column: type, rows, mean of the finite values, and a digest of all of them."""
    import numpy as np

    found = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        values = column.to_pylist()
        finite = [value for value in values if isinstance(value, (int, float)) and np.isfinite(value)]
        mean = f" mean={sum(finite) / len(finite):.6g}" if finite else ""
        found[name] = f"{column.type} n={len(values)} null={column.null_count}{mean} {digest(values)}"
    return found


def contents(path: Path, work: str) -> Any:
    """What a file, a table in parts or a run folder holds."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.is_dir() and (path / "_manifest.json").exists():
        parts = json.loads((path / "_manifest.json").read_text())["parts"]
        tables = [pq.ParquetFile(path / part).read() for part in parts]
        return {"parts": len(parts), **columns_of(pa.concat_tables(tables))}
    if path.is_dir():
        files = sorted(str(file.relative_to(path)) for file in path.rglob("*") if "checkpoint-" not in str(file))
        inside = {name: contents(path / name, work) for name in files if re.fullmatch(
            r"scores|plans|[a-z_]+\.(json|parquet|yaml|jsonl)|model/(config\.json|README\.md|model\.safetensors)", name
        )}  # fmt: skip
        return {"files": [file for file in files if not re.match(r"report|logs/", file)], **inside}
    if path.suffix == ".parquet":
        return columns_of(pq.ParquetFile(path).read())
    if path.suffix == ".json":
        return cleaned(json.loads(path.read_text()), work)
    if path.suffix == ".safetensors":
        return digest(path.read_bytes())
    return spoken(str(path), work) if path.suffix == ".md" else path.read_text().replace(work, "<work>").splitlines()


def write(file: Path, found: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


# ---- help, signatures, methods ----


def asked(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "datadiet", *arguments], capture_output=True, text=True, check=True)
    return done.stdout


def help_part(folder: Path) -> None:
    whole = asked("--help")
    commands = re.findall(r"^│ ([a-z]+) ", whole, re.MULTILINE)
    pages = {"datadiet": whole} | {name: asked(name, "--help") for name in commands}
    write(folder / "help.json", {name: [line.rstrip() for line in page.splitlines()] for name, page in pages.items()})


def methods_part(folder: Path) -> None:
    methods = json.loads(asked("methods", "--json"))
    write(folder / "methods.json", {f"{one['kind']} {one['name']}": one for one in methods})


def described(held: Any) -> Any:
    """The signature of a function, or of a class and its methods; the names in a module or a mapping."""
    if isinstance(held, ModuleType):
        own = [name for name, one in vars(held).items() if getattr(one, "__module__", "") == held.__name__]
        names = getattr(held, "__all__", [name for name in own if not name.startswith("_")])
        return {name: described(getattr(held, name)) for name in sorted(names)}
    if isinstance(held, type):
        names = [name for name in dir(held) if not name.startswith("_")]
        members = {name: inspect.getattr_static(held, name) for name in names}
        ours = {name: getattr(one, "__func__", getattr(one, "fget", one)) for name, one in members.items()}
        ours = {name: one for name, one in ours.items() if str(getattr(one, "__module__", "")).startswith("datadiet")}
        return {"class": signature(held), **{name: signature(one) for name, one in ours.items()}}
    if callable(held):
        return signature(held)
    named = isinstance(held, (dict, tuple, list, frozenset, set))
    return sorted(map(str, held)) if named else without_times(repr(held))


def signature(held: Any) -> str:
    try:
        return re.sub(r" at 0x\w+|datadiet\.[a-z_.]+\.", "", str(inspect.signature(held)))
    except (TypeError, ValueError):
        return type(held).__name__


def api_part(folder: Path) -> None:
    import datadiet as dd

    write(folder / "api.json", {name: described(getattr(dd, name)) for name in sorted(dd.__all__)})


# ---- messages: this file is a pytest plugin too ----


def pytest_configure(config: Any) -> None:
    """Keep every exception that a test expects, and what it reads from standard error."""
    if MESSAGES not in os.environ:
        return
    import pytest
    from _pytest.capture import CaptureFixture
    from typer.testing import CliRunner

    messages: set[str] = set()
    expects = type(pytest.raises(KeyError))
    leave, invoke, read = expects.__exit__, CliRunner.invoke, CaptureFixture.readouterr

    def leaving(self: Any, kind: Any, error: Any, trace: Any) -> Any:
        __tracebackhide__ = True
        if error is not None:
            messages.add(f"{type(error).__name__}: {error}")
        return leave(self, kind, error, trace)

    def invoking(self: Any, *args: Any, **options: Any) -> Any:
        done = invoke(self, *args, **options)
        messages.update(said(done.stderr))
        return done

    def reading(self: Any) -> Any:
        found = read(self)
        messages.update(said(str(found.err)))
        return found

    class Keeper:
        def pytest_sessionfinish(self) -> None:
            write(Path(os.environ[MESSAGES]) / f"{os.getpid()}.json", sorted(messages))

    expects.__exit__, CliRunner.invoke, CaptureFixture.readouterr = leaving, invoking, reading  # type: ignore
    config.pluginmanager.register(Keeper())


def said(text: str) -> list[str]:
    """The lines of standard error, without tracebacks; from an error on all together, since it may be folded."""
    if "Traceback" in text:
        text = text.partition("Traceback")[0] + text.strip().splitlines()[-1]
    before, mark, after = text.partition("error:")
    lines = [*before.splitlines(), mark + after]
    return [f"stderr: {line}" for line in lines if line.strip() and not NOISE.search(line)]


def messages_part(folder: Path) -> None:
    """Run the test suite; how it ends is no part of the snapshot."""
    with tempfile.TemporaryDirectory(prefix="snapshot-") as work:
        environment = {**os.environ, MESSAGES: f"{work}/messages", "HYPOTHESIS_STORAGE_DIRECTORY": f"{work}/hypothesis"}
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", str(ROOT / "src"))])
        environment = {name: value for name, value in environment.items() if name not in PLAIN}
        options = ["-n", "2", "--dist", "worksteal", "-p", "no:cacheprovider", "--hypothesis-seed", "0"]
        suite = [sys.executable, "-m", "pytest", *options, "-p", "benchmarks.snapshot", "--basetemp", f"{work}/tests"]
        subprocess.run(suite, cwd=ROOT, env=environment, check=False)
        lines = [line for file in Path(work, "messages").glob("*.json") for line in json.loads(file.read_text())]
        unique = {message(line, work) for line in lines if not re.search(r"\.py\", line \d+", line)}  # no tracebacks
        write(folder / "messages.json", sorted(unique))


def message(text: str, work: str) -> str:
    """A message without temporary paths, places in this tree, times, and the way it was folded."""
    text = re.sub(re.escape(work) + r"/tests/(popen-gw\d+/)?[^/\s'\":,;]*", "<tmp>", text)
    text = re.sub(r"\btest_\w+/ in popen-gw\d+/", "<tmp>", text.replace(str(ROOT), "<tree>"))
    text = re.sub(r"/(?:tmp|dev/shm)/[\w-]+", "<tmp>", text)
    return " ".join(FRAMES.sub(" ", without_times(text)).split())


# ---- comparing ----


def differences(old: Any, new: Any, where: str) -> Iterator[str]:
    """One line per difference, with the way to it."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            if key not in old or key not in new:
                yield f"{where} / {key}: {'new' if key in new else 'gone'}"
            else:
                yield from differences(old[key], new[key], f"{where} / {key}")
    elif old != new and isinstance(old, list) and isinstance(new, list) and all(isinstance(x, str) for x in old + new):
        lines = list(difflib.unified_diff(old, new, lineterm="", n=0))[2:]
        yield "\n    ".join([f"{where}:", *(line for line in lines if not line.startswith("@@"))])
    elif old != new and isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for place, pair in enumerate(zip(old, new, strict=True)):
            yield from differences(*pair, f"{where} / {place}")
    elif old != new:
        yield f"{where}: {json.dumps(old, ensure_ascii=False)} -> {json.dumps(new, ensure_ascii=False)}"


def compare(new: Path, old: Path) -> int:
    """Print what differs; parts that only one of the two has are said and not compared."""
    found: list[dict[str, Any]] = []
    for folder in (old, new):
        files = sorted(folder.rglob("*.json"))
        found.append({str(file.relative_to(folder)): json.loads(file.read_text(encoding="utf-8")) for file in files})
    parts = [{name.split("/")[0] for name in one} for one in found]
    for part in sorted(parts[0] ^ parts[1]):
        print(f"not compared, only in one of the two: {part}")
    both = [{name: held for name, held in one.items() if name.split("/")[0] in parts[0] & parts[1]} for one in found]
    told = [line for line in differences(*both, "") if line]
    print("\n".join(line.removeprefix(" / ") for line in told) or f"no difference in {len(both[0])} files")
    return int(bool(told) or not both[0])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the snapshot")
    parser.add_argument("--against", type=Path, help="an earlier one to compare it with; nothing is run")
    parser.add_argument("--parts", default=",".join(PARTS), help="some of runs, help, api and methods")
    parser.add_argument("--messages", action="store_true", help="run the test suite too, for its messages")
    options = parser.parse_args()
    if options.against:
        return compare(options.folder, options.against)
    if os.environ.get("PYTHONHASHSEED") != "0":  # read at the start of the process
        again = [sys.executable, "-m", "benchmarks.snapshot", *sys.argv[1:]]
        os.execve(sys.executable, again, {**os.environ, **QUIET, **PLAIN})
    folder = options.folder.resolve()
    import datadiet

    print(f"snapshot of {Path(datadiet.__file__).parent}", flush=True)
    for part in filter(None, options.parts.split(",")):
        shutil.rmtree(folder / part, ignore_errors=True)
        began = time.perf_counter()
        {"runs": runs_part, "help": help_part, "api": api_part, "methods": methods_part}[part](folder)
        print(f"{part}: {time.perf_counter() - began:.0f} s", flush=True)
    if options.messages:
        messages_part(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
