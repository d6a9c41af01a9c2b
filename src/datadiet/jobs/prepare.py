"""From a config to everything that one run trains with; only the cache folder is written to.

`ask_teacher` and `ask_reference` give what another model says of the training rows. `precompute` computes, or reads,
values and embeddings that a diet needs before the first step. `prepare` puts data, task, model, features
(`datadiet.jobs.features`) and these parts together into a `Run`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase, set_seed

from datadiet.config import AUTO, FinetuneConfig
from datadiet.data.load import load_configured
from datadiet.data.schema import Dataset, Examples, joined_texts
from datadiet.diet.diet import Diet
from datadiet.diet.forecast import cut_short
from datadiet.errors import ArgumentError, Problems, UserError, quoted
from datadiet.formatting import rate_text
from datadiet.jobs.features import Features
from datadiet.jobs.validate import (
    check_with_data,
    examples_per_step,
    given_score,
    is_given,
    is_of_gradients,
    lacking,
    output_folder,
    reference_source,
    source_of,
)
from datadiet.ledger import Ledger
from datadiet.registry import has
from datadiet.scoring.dataset import score_split
from datadiet.scoring.embed import embeddings_of
from datadiet.scoring.forward import TRAINING_BATCHES_PER_PASS_BATCH, lengths_of, predict_all
from datadiet.scoring.inputs import ScoringInputs
from datadiet.store import run_folder as layout
from datadiet.store.run_folder import checkpoints_of
from datadiet.store.score_file import check_same_data, read_scores
from datadiet.tasks import task_for, task_of_saved_model
from datadiet.tasks.base import Prediction, Task
from datadiet.tasks.loading import load_saved, with_lora
from datadiet.tasks.losses import class_weights
from datadiet.training.arguments import LearningRate, ids_and_groups, learning_rate_of
from datadiet.training.distill import (
    TEACHER,
    Answers,
    HeadLogits,
    Teacher,
    load_answers,
    origin_of,
    save_answers,
    teacher_of,
)
from datadiet.training.machine import EnergyMeter, best_device, resolve_precision
from datadiet.training.race import judging_split
from datadiet.training.tokens import REFERENCE, TokenReference, token_reference, weights_checksum
from datadiet.types import Forecast, Json, Listener


def check_teacher(folder: Path, task: Task) -> None:
    """Refuse a teacher of other classes, before anything is loaded.

    Args:
        folder: A saved model, or a run folder.
        task: Of the student.

    Raises:
        ArgumentError: If the model is of another task, or names other labels.
    """
    problems = Problems()
    problems.found = class_problems(folder, task, "the teacher")
    problems.raise_any()


def class_problems(folder: Path, task: Task, what: str) -> list[str]:
    """Why a saved model does not answer in the classes of a task; nothing where it does.

    Args:
        folder: A saved model, or a run folder.
        task: With the labels of the data.
        what: What the model is to the user, such as `the teacher`.

    Raises:
        DataError: If the folder holds no model.
    """
    taught = task_of_saved_model(layout.saved_model(folder))
    if taught.name != task.name:
        return [f"{what} in {folder} is for {taught.name}, this data is {task.name}."]
    problems = []
    for kind, ours, theirs in (
        ("labels", task.label_names, taught.label_names),
        ("slots", task.slot_names, taught.slot_names),
    ):
        if tuple(ours) != tuple(theirs):
            strange = sorted(set(ours) ^ set(theirs))
            named = f", e.g. {quoted(strange[0])} is in one of them only" if strange else " in another order"
            bare = kind == "labels" and bool(theirs) and all(name.startswith("LABEL_") for name in theirs)
            hint = " It names none: write those of its training into id2label of its config.json." if bare else ""
            problems.append(f"{what} in {folder} has other {kind} than this data{named}.{hint}")
    return problems


def cost_of(folder: Path) -> float | None:
    """Seconds that training the teacher took, `finetune_s` of its run; None where its run is not known."""
    run = folder if (folder / layout.RESULT).is_file() else folder.parent
    try:
        result = layout.checked_result(run)
    except UserError:
        return None
    return float(result["cost"]["finetune_s"])


def ask_teacher(folder: Path, features: Features, *, batch_tokens: int, precision: str, temperature: float) -> Teacher:
    """A teacher's logits of the training rows, as its own tokenizer reads them: asked for, or taken from the cache.

    Args:
        folder: A saved model, or a run folder.
        features: Of the student: the data, its task, the folder of the cache and the ledger, which takes the time as
            scoring, also what another run has spent on asking.
        batch_tokens, precision: Of the pass.
        temperature: See `Teacher`.

    Raises:
        UserError: If there is no such model, or it has other classes.
    """
    check_teacher(folder, features.task)
    with features.ledger.charge("score"):
        how = {"batch_tokens": batch_tokens, "precision": precision}
        heads = _kept_or_asked(layout.saved_model(folder), features, how)
    return Teacher(heads, temperature, seconds=cost_of(folder))


def _kept_or_asked(model: Path, features: Features, how: Json) -> dict[str, HeadLogits]:
    """The teacher's logits, charged in either case to the ledger's running account."""
    if features.folder is None:
        return _asked(model, features, how).heads
    task = features.task
    options = {**how, "max_length": features.max_length, "device": best_device().type}
    classes = [task.name, list(task.label_names), list(task.slot_names)]
    origin = origin_of(model, features.data.fingerprint, classes, options)
    storage = {"save": save_answers, "load": load_answers}
    stored = features.cached("teacher", TEACHER, origin, lambda: _asked(model, features, how), **storage)
    if stored.reused:
        features.ledger.count_scoring(stored.value.examples, stored.value.tokens)
    return stored.value.heads


def _asked(source: Path, features: Features, how: Json) -> Answers:
    """One pass of the teacher over the training rows."""
    ledger, task = features.ledger, features.task
    before = ledger.examples_forward, ledger.tokens_forward
    model: Any = load_saved(source)
    tokenizer = features.task.load_tokenizer(str(source))
    rows = task.features(features.data.splits["train"], tokenizer, max_length=features.max_length)
    teacher = teacher_of(model.to(best_device()), rows, task.collator(tokenizer), task.signals, ledger=ledger, **how)
    examples, tokens = ledger.examples_forward - before[0], ledger.tokens_forward - before[1]
    return Answers(dict(teacher.heads), examples, tokens)


def check_reference(source: str, tokenizer: PreTrainedTokenizerBase, task: Task) -> None:
    """Refuse a reference whose tokens are others, before anything is tokenised.

    Args:
        source: Where it is loaded from.
        tokenizer: Of the model that trains.
        task: Of the run.

    Raises:
        ArgumentError: If one token has another number, or none; names it.
        UserError: If there is no tokenizer beside the reference.
    """
    ours, theirs = tokenizer.get_vocab(), task.load_tokenizer(source).get_vocab()
    if strange := sorted(word for word in {*ours, *theirs} if ours.get(word) != theirs.get(word)):
        raise ArgumentError(
            f"reference must have the vocabulary of the model: {source} has {len(theirs):,} tokens, the model "
            f"{len(ours):,}, and {quoted(strange[0])} is not the same in both. Take one with the same tokenizer."
        )


def ask_reference(
    source: str, features: Features, rows: datasets.Dataset, model: Any, *, batch_tokens: int, precision: str
) -> TokenReference:
    """The losses that a reference gives the tokens of the training rows: by one pass, or taken from the cache.

    Args:
        source: Where it is loaded from.
        features: Of the run; its ledger takes the time as scoring, also what another run has spent on the pass.
        rows: Features of the training rows.
        model: The model that trains.
        batch_tokens, precision: Of the pass.

    Raises:
        ArgumentError: If it has another vocabulary, or rows have more tokens than it has positions.
    """
    ledger = features.ledger
    with ledger.charge("score"):
        reference: Any = features.task.load_model(source)
        reference.to(best_device())
        most, longest = getattr(reference.config, "max_position_embeddings", None), max(rows["length"])
        if most is not None and longest > most:
            raise ArgumentError(
                f"reference must have room for rows of {longest:,} tokens, got {source} with {most:,} positions: cut "
                f"them with --max-length {most}."
            )

        def compute() -> TokenReference:
            collate = features.task.collator(features.tokenizer)
            how: Json = {"batch_tokens": batch_tokens, "precision": precision}
            return token_reference(reference, rows, collate, model=model, ledger=ledger, **how)

        if features.folder is None:
            return compute()
        origin = {
            **features.origin("train"), "excluded": features.excluded.get("train", []), "precision": precision,
            "weights": weights_checksum(reference), "device": best_device().type,
        }  # fmt: skip
        stored = features.cached(
            "reference", REFERENCE, origin, compute, save=TokenReference.save, load=TokenReference.load
        )
        if stored.reused:
            ledger.count_scoring(len(rows), sum(rows["length"]))
    return stored.value


@dataclass(frozen=True)
class Precomputed:
    """What is known of the training rows before the first step.

    Attributes:
        values: float32 `(n,)`, of a score that training does not make; None for one that it makes.
        features: float32 `(n, size)`, for a selector that covers a space; None for any other.
    """

    values: NDArray[np.float32] | None = None
    features: NDArray[np.float32] | None = None


def precompute(diet: Diet, material: ScoringInputs, train: Examples, fingerprint: str) -> Precomputed:
    """Compute, or read, what a diet cannot make while training.

    Args:
        diet: Of the run; its `scores_from` may be a file of `datadiet score`, or a run folder with checkpoints.
        material: Of the training rows, with the model that the run starts from as `encoder`.
        train: The training rows.
        fingerprint: Of the data.

    Raises:
        ArgumentError: If the score needs what is not there; says what to do.
        DataError: If the score file is of other data, or lacks rows.
    """
    problems = Problems()
    problems.found += lacking(diet)
    problems.raise_any()
    features = embeddings_of(material) if diet.covers else None
    name, source = given_score(diet), source_of(diet)
    is_file = source is not None and source.is_file()
    if not is_given(diet) and not is_file:
        return Precomputed(None, features)
    if source is not None and is_file:
        return Precomputed(_from_file(source, name, train.ids, fingerprint), features)
    if source is not None and is_of_gradients(name):
        return Precomputed(_from_run(source, name, material), features)
    return Precomputed(score_split([name], material).values[name], features)


def _from_file(path: Path, name: str, ids: Sequence[str], fingerprint: str) -> NDArray[np.float32]:
    """The values of a score file, by id."""
    file = read_scores(path, scores=[name])
    check_same_data(file, fingerprint, "the training data")
    pairs = zip(file.ids, file.values[name].tolist(), file.lacks(name).tolist(), strict=True)
    by_id = {key: value for key, value, lacks in pairs if not lacks}
    missing = [key for key in map(str, ids) if key not in by_id]
    if missing:
        raise ArgumentError(
            f"{path} has no {name} of {len(missing)} training rows, the first with the id {quoted(missing[0])}."
        )
    return np.array([by_id[str(key)] for key in ids], np.float32)


def _from_run(run: Path, name: str, material: ScoringInputs) -> NDArray[np.float32]:
    """The values that the checkpoints of an earlier run give."""
    steps = checkpoints_of(run)
    model: Any = load_saved(run / layout.MODEL) if name == "grand" else None
    if model is not None:
        model.to(best_device())
    return score_split([name], replace(material, checkpoints=steps or None, model=model)).values[name]


@dataclass(frozen=True)
class Run:
    """Everything a run needs before its first step; nothing of it has been written yet.

    Attributes:
        folder: The run folder.
        features: Of every split; those of test are made after the training.
        train, dev: Features of the two splits that training may see.
        lengths: int64, tokens of each training row.
        precision: Resolved: `fp32`, `bf16` or `fp16`.
        meter: Of the energy.
        teacher: What another model says of the training rows.
        reference: Its losses of their tokens, for a token rule.
        known: What was computed of the training rows before the first step.
        learning_rate: By the config and the weights of the model that train, before anything is merged.
    """

    config: FinetuneConfig
    folder: Path
    listener: Listener
    ledger: Ledger
    diet: Diet
    data: Dataset
    task: Task
    tokenizer: Any
    model: Any
    features: Features
    train: Any
    dev: Any
    lengths: NDArray[np.int64]
    precision: str
    meter: EnergyMeter
    teacher: Teacher | None = None
    precomputed: Precomputed = field(default_factory=Precomputed)
    reference: TokenReference | None = None
    learning_rate: LearningRate = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "learning_rate", learning_rate_of(self.config.learning_rate, self.model))

    @property
    def collate(self) -> Any:
        """Feature rows to one batch."""
        return self.task.collator(self.tokenizer)

    def predict(self, model: Any, features: Any) -> list[Prediction]:
        """One prediction per row, in row order."""
        tokens = pass_tokens(self.config, self.lengths)
        return predict_all(
            model, features, self.collate, self.task.decode, batch_tokens=tokens, precision=self.precision
        )

    @cached_property
    def judging(self) -> Any:
        """The dev rows that can judge a race: those with a label that the model knows; None where there are none."""
        return judging_split(self.dev, self.collate, columns=lambda rows: rows, label_names=())[0]

    @property
    def judges(self) -> int | None:
        """How many dev rows can judge a race."""
        return None if self.judging is None else len(self.judging)

    def forecast(self) -> Forecast:
        """What the run will do; of a run with `max_steps`, up to there."""
        config = self.config
        batch = examples_per_step(config)
        planned = self.diet.forecast(
            len(self.train), epochs=config.planned_epochs, batch=batch, lengths=self.lengths, dev_rows=self.judges
        )
        rate, first_rule = rate_text(asdict(self.learning_rate)), self._first_rule_text(batch)
        planned = replace(planned, learning_rate=rate, first_rule=first_rule, open_end=config.epochs == AUTO)
        return planned if config.max_steps is None else cut_short(planned, config.max_steps, batch)

    def _first_rule_text(self, batch: int) -> str:
        """What `auto` begins with, and why, in words; empty for another selector."""
        options = self.diet.options
        if options.race is None or not options.plans:
            return ""
        classes = [None if rows is None else ids_and_groups(rows)[1] for rows in (self.train, self.judging)]
        schedule = options.schedule(len(self.train), epochs=self.config.planned_epochs, batch=batch)
        tagged_rows = (self.judges or 0) if has(self.data.task, "words") else 0
        watched = self.judging is not None
        first = options.first_rule(schedule, *classes, tagged_rows=tagged_rows, watched=watched)
        return f"The first rule is {first.rule}{first.why and f': {first.why}'}."


def prepare(
    config: FinetuneConfig,
    diet: Diet,
    ledger: Ledger,
    listener: Listener,
    *,
    begun: bool = False,
    meter: EnergyMeter | None = None,
) -> Run:
    """Read the data, load the model, tokenise, and check what only now can be checked.

    Args:
        config: Checked.
        diet: Of the config.
        ledger: Whose account for loading is running.
        listener: Is told what happens.
        begun: Whether the run has a checkpoint, which holds the scores it began from.
        meter: Counts the energy; by default none is counted.

    Raises:
        UserError: If the data cannot be used, or not with these options.
    """
    listener.phase("reading the data")
    data = load_configured(config)
    for note in data.notes:
        listener.note(note)
    check_with_data(config, diet, data)
    listener.phase("loading the model")
    task = task_for(data)
    tokenizer = task.load_tokenizer(config.model)
    diet = Diet(diet.options.numbered(task.label_names))
    model = _load(config, data, task, tokenizer)
    listener.phase("tokenising")
    cache = None if config.cache is None else Path(config.cache).expanduser()
    features = Features(data, task, tokenizer, config.length, ledger, cache)
    train, dev = _tokenise(features, config, listener)
    data = features.data
    if _starts_from_run(config, diet) and not begun:  # begins anew when training does; raises here what it would there
        ids, groups = data.splits["train"].ids, task.groups(train)
        diet.begin(len(train), epochs=config.planned_epochs, ids=ids, groups=groups, write=False)
    lengths = lengths_of(train)
    assert lengths is not None  # every task gives a length
    precision = resolve_precision(config.precision, best_device())
    how: Json = {"batch_tokens": pass_tokens(config, lengths), "precision": precision}
    teacher, reference = _ask(config, features, train, model, listener, how)
    material = ScoringInputs(
        joined_texts(data.splits["train"]), train, task.collator(tokenizer), task.signals, combine=diet.options.combine,
        groups=task.groups(train), ids=data.splits["train"].ids, dev=dev, ledger=ledger, seed=config.seed,
        options={diet.options.score.name: diet.options.score_options}, **how,
    )  # fmt: skip
    if diet.covers or diet.options.score.kind == "given":
        listener.phase("looking at all the examples")
        material = replace(material, encoder=model.to(best_device()))
    precomputed = precompute(diet, material, data.splits["train"], data.fingerprint)
    return Run(
        config, output_folder(config), listener, ledger, diet, data, task, tokenizer, model, features, train,
        dev, lengths, precision, meter or EnergyMeter(), teacher, precomputed, reference,
    )  # fmt: skip


def _load(config: FinetuneConfig, data: Dataset, task: Task, tokenizer: PreTrainedTokenizerBase) -> Any:
    """The model; other models of the run are checked first."""
    if config.teacher is not None:
        check_teacher(Path(config.teacher).expanduser(), task)
    if config.reference is not None:
        check_reference(reference_source(config), tokenizer, task)
    set_seed(config.seed)
    model: Any = task.load_model(config.model, **model_options(config, data))
    model = with_lora(model, config.lora) if config.lora else model
    if config.gradient_checkpointing and not getattr(model, "supports_gradient_checkpointing", False):
        raise ArgumentError(f"{config.model} does not support gradient_checkpointing: leave it out.")
    return model


def _tokenise(
    features: Features, config: FinetuneConfig, listener: Listener
) -> tuple[datasets.Dataset, datasets.Dataset]:
    """The features of the training and dev rows that have something to train on."""
    task = features.task
    train, dev = features.of("train"), features.of("dev")
    tested = [split for split in features.data.splits if split not in ("train", "dev") and has(task.name, "answers")]
    all_features = {"train": train, "dev": dev, **{split: features.of(split) for split in tested}}
    for note in task.notes(all_features, features.tokenizer, config.model):
        listener.note(note)
    return features.answered("train", train, listener), features.answered("dev", dev, listener)


def _ask(
    config: FinetuneConfig, features: Features, train: datasets.Dataset, model: Any, listener: Listener, how: Json
) -> tuple[Teacher | None, TokenReference | None]:
    """What other models say of the training rows."""
    teacher = reference = None
    if config.teacher is not None:
        listener.phase("asking the teacher")
        folder = Path(config.teacher).expanduser()
        teacher = ask_teacher(folder, features, temperature=config.teacher_temperature, **how)
    if config.reference is not None:
        listener.phase("asking the reference")
        reference = ask_reference(reference_source(config), features, train, model, **how)
    return teacher, reference


def _starts_from_run(config: FinetuneConfig, diet: Diet) -> bool:
    """Whether the diet itself takes up the last values of a run; a score file is read beforehand."""
    of_run = config.scores_from is not None and not Path(config.scores_from).expanduser().is_file()
    return of_run and diet.options.score.kind != "given" and not diet.options.in_batch


def pass_tokens(config: FinetuneConfig, lengths: NDArray[np.int64]) -> int:
    """The most padded tokens of a batch of a pass.

    Args:
        config: Of the run.
        lengths: Tokens of each row.
    """
    return config.batch_size * max(1, int(lengths.mean())) * TRAINING_BATCHES_PER_PASS_BATCH


def model_options(config: FinetuneConfig, data: Dataset) -> dict[str, Any]:
    """What a joint model is made with; empty for every other."""
    if not has(config.task, "joint"):
        return {}
    weights = class_weights(data, repeats=config.dedupe_weights) if config.class_weights else None
    return {"alpha": config.alpha, "label_smoothing": config.label_smoothing, "class_weights": weights}
