"""The structure of public training scripts at a tiny size, with and without the two lines of a diet.

At keep 1 the losses are those of the plain script, whether a diet can read the outputs or not. Below, the script trains
on the plan, or is refused in one sentence before its first step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
import transformers as hf
from datasets import Dataset

from datadiet.diet.diet import Diet
from datadiet.errors import ArgumentError
from datadiet.training.trainer import DietMixin
from datadiet.types import HeadSignals, Signals
from toys import Logged, hard_diet, scores_of, tiny_config, tiny_model_folder, tiny_tokenizer, weights

# of the other libraries
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

ROWS, BATCH, EPOCHS = 16, 4, 2
WORDS = ("amber", "birch", "cobalt", "denim")
TOKENIZER = tiny_tokenizer()


def dieting(kind):
    """The two lines: `class DietX(dd.DietMixin, X)`, and `diet=`."""
    return type(f"Diet{kind.__name__}", (DietMixin, kind), {})


def settings(folder, kind=hf.TrainingArguments, **changes):
    usual = {"num_train_epochs": EPOCHS, "per_device_train_batch_size": BATCH, "learning_rate": 1e-3, "seed": 3}
    usual |= {"logging_steps": 1, "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "use_cpu": True}
    return kind(output_dir=str(folder), **{**usual, "dataloader_pin_memory": False, **changes})


def model_of(kind, config=None, **changes):
    config = config or tiny_config(dropout=0.1)
    for name, value in changes.items():
        setattr(config, name, value)
    torch.manual_seed(0)
    return kind(config)


def texts(rows=ROWS):
    return [f"the {WORDS[row % 4]} of {WORDS[row // 4 % 4]} is in it" for row in range(rows)]


def encoded(**columns):
    return Dataset.from_dict({**TOKENIZER(texts()), **columns})


@dataclass
class Script:
    kind: type
    options: dict

    def run(self, folder, diet=None, **more):
        """Train; the losses of its steps."""
        seen = Logged()
        kind, added = (self.kind, {}) if diet is None else (dieting(self.kind), {"diet": diet})
        of_folder = ("args", "folder")
        given = {key: value(folder) if key in of_folder else value() for key, value in self.options.items()}
        trainer = kind(**{"callbacks": [seen], **given, **added, **more})
        trainer.train()
        return trainer, seen.losses


# ---- what transformers' examples train


class QuestionAnsweringTrainer(hf.Trainer):
    """As in run_qa: predictions are made into answers before they are measured."""

    def __init__(self, *args, eval_examples=None, post_process_function=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.eval_examples, self.post_process_function = eval_examples, post_process_function

    def evaluate(self, eval_dataset=None, eval_examples=None, ignore_keys=None, metric_key_prefix="eval"):
        loader = self.get_eval_dataloader(self.eval_dataset if eval_dataset is None else eval_dataset)
        output = self.evaluation_loop(loader, "Evaluation", prediction_loss_only=False, ignore_keys=ignore_keys)
        metrics = self.post_process_function(self.eval_examples, output.predictions)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def question_answering():
    places = [row % 5 + 1 for row in range(ROWS)]
    train = encoded(start_positions=places, end_positions=[place + 1 for place in places])
    return Script(
        QuestionAnsweringTrainer,
        {
            "model": lambda: model_of(hf.BertForQuestionAnswering),
            "args": lambda folder: settings(folder, eval_strategy="epoch"),
            "train_dataset": lambda: train,
            "eval_dataset": lambda: encoded(),
            "eval_examples": lambda: texts(),
            "data_collator": lambda: hf.DataCollatorWithPadding(TOKENIZER),
            "post_process_function": lambda: lambda _examples, outputs: {"exact_match": float(len(outputs[0]))},
        },
    )


def of_transformers(model, columns, collator, kind=hf.Trainer, arguments=hf.TrainingArguments, **options):
    return Script(
        kind,
        {
            "model": model,
            "args": lambda folder: settings(folder, arguments, **options),
            "train_dataset": lambda: encoded(**columns()),
            "data_collator": collator,
        },
    )


def padded():
    return hf.DataCollatorWithPadding(TOKENIZER)


def choices():
    """As in run_swag: two endings for each beginning."""
    pairs = [TOKENIZER([text, text], ["is amber", "is birch"]) for text in texts()]
    names = ("input_ids", "attention_mask", "token_type_ids")
    columns = {name: [pair[name] for pair in pairs] for name in names}
    return Script(
        hf.Trainer,
        {
            "model": lambda: model_of(hf.BertForMultipleChoice),
            "args": settings,
            "train_dataset": lambda: Dataset.from_dict({**columns, "label": [row % 2 for row in range(ROWS)]}),
            "data_collator": lambda: hf.DataCollatorForMultipleChoice(TOKENIZER),
        },
    )


def tiny_t5():
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
    return hf.T5Config(vocab_size=len(TOKENIZER), **sizes)


def tiny_gpt():
    special = {"bos_token_id": 2, "eos_token_id": 3}
    return hf.GPT2Config(vocab_size=len(TOKENIZER), n_embd=16, n_layer=1, n_head=2, n_positions=64, **special)


def inputs():
    return TOKENIZER(texts())["input_ids"]


SCRIPTS = {
    "run_glue": lambda: of_transformers(
        lambda: model_of(hf.BertForSequenceClassification, num_labels=3),
        lambda: {"label": [row % 3 for row in range(ROWS)]},
        padded,
    ),
    "run_glue stsb": lambda: of_transformers(
        lambda: model_of(hf.BertForSequenceClassification, num_labels=1),
        lambda: {"label": [row % 2 * 1.0 for row in range(ROWS)]},
        padded,
    ),
    "run_classification": lambda: of_transformers(
        lambda: model_of(
            hf.BertForSequenceClassification, num_labels=3, problem_type="multi_label_classification"
        ),
        lambda: {"label": [[1.0, 0.0, float(row % 2)] for row in range(ROWS)]},
        padded,
    ),
    "run_ner": lambda: of_transformers(
        lambda: model_of(hf.BertForTokenClassification, num_labels=3),
        lambda: {"labels": [[-100, *(place % 3 for place in range(len(ids) - 2)), -100] for ids in inputs()]},
        lambda: hf.DataCollatorForTokenClassification(TOKENIZER),
    ),
    "run_swag": choices,
    "run_qa": question_answering,
    "run_mlm": lambda: of_transformers(
        lambda: model_of(hf.BertForMaskedLM),
        dict,
        lambda: hf.DataCollatorForLanguageModeling(TOKENIZER),
    ),
    "run_summarization": lambda: of_transformers(
        lambda: model_of(hf.T5ForConditionalGeneration, tiny_t5()),
        lambda: {"labels": inputs()},
        lambda: hf.DataCollatorForSeq2Seq(TOKENIZER),
        hf.Seq2SeqTrainer,
        hf.Seq2SeqTrainingArguments,
    ),
    "run_clm": lambda: of_transformers(
        lambda: model_of(hf.GPT2LMHeadModel, tiny_gpt()),
        dict,
        lambda: hf.DataCollatorForLanguageModeling(TOKENIZER, mlm=False),
    ),
}  # fmt: skip
UNREADABLE = {}


# ---- what other libraries train


def of_pairs(part, loss, labels=None, **model):
    """A trainer of sentence-transformers on two texts a row."""
    st = pytest.importorskip("sentence_transformers")
    module = getattr(st, part)
    name = {"cross_encoder": "CrossEncoder", "sentence_transformer": "SentenceTransformer"}[part]
    arguments = getattr(module.training_args, f"{name}TrainingArguments")
    columns = {"left": texts(), "right": texts()[::-1], **({} if labels is None else {"label": labels})}

    class WithLoss(getattr(module.trainer, f"{name}Trainer")):
        def __init__(self, *, folder, **options):
            torch.manual_seed(0)
            made = getattr(st, name)(str(tiny_model_folder(folder / "model", dropout=0.1)), device="cpu", **model)
            super().__init__(model=made, loss=loss(module.losses, made), **options)

    return Script(
        WithLoss,
        {
            "folder": lambda folder: folder,
            "args": lambda folder: settings(folder, arguments),
            "train_dataset": lambda: Dataset.from_dict(columns),
        },
    )


def of_trl(name, model, columns, **options):
    trl = pytest.importorskip("trl")
    config = getattr(trl, f"{name}Config")
    return Script(
        getattr(trl, f"{name}Trainer"),
        {
            "model": model,
            "args": lambda folder: settings(folder, config, bf16=False, max_length=32, **options),
            "train_dataset": lambda: Dataset.from_dict(columns),
            "processing_class": lambda: tiny_tokenizer_with_end(),
        },
    )


def tiny_tokenizer_with_end():
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = "[SEP]"
    return tokenizer


def of_setfit():
    """SetFit makes the pairs and the loss, and sets batch size and epochs on a trainer of sentence-transformers."""
    setfit = pytest.importorskip("setfit")
    st = pytest.importorskip("sentence_transformers")
    heads = pytest.importorskip("sklearn.linear_model")
    data = Dataset.from_dict({"text": texts(8), "label": [row % 2 for row in range(8)]})

    class Pairs(setfit.trainer.BCSentenceTransformersTrainer):
        def __init__(self, *, folder, callbacks, **options):
            torch.manual_seed(0)
            body = st.SentenceTransformer(str(tiny_model_folder(folder / "model", dropout=0.1)), device="cpu")
            model = setfit.SetFitModel(model_body=body, model_head=heads.LogisticRegression())
            args = setfit.TrainingArguments(
                output_dir=str(folder), batch_size=BATCH, num_epochs=EPOCHS, num_iterations=1, report_to="none",
                logging_steps=1, save_strategy="no", show_progress_bar=False,
            )  # fmt: skip
            self.outer = setfit.Trainer(model=model, args=args, train_dataset=data)
            super().__init__(setfit_model=model, setfit_args=args, callbacks=callbacks, **options)
            self.outer.st_trainer = self

        def train(self, *args, **kwargs):
            if self.train_dataset is None:
                return self.outer.train_embeddings(list(data["text"]), list(data["label"]))
            return super().train(*args, **kwargs)

    return Script(Pairs, {"folder": lambda folder: folder})


YES = [float(row % 2) for row in range(ROWS)]
SCRIPTS |= {
    "CrossEncoder bce": lambda: of_pairs(
        "cross_encoder", lambda losses, model: losses.BinaryCrossEntropyLoss(model), YES, num_labels=1
    ),
    "CrossEncoder mse": lambda: of_pairs(
        "cross_encoder", lambda losses, model: losses.MSELoss(model), YES, num_labels=1
    ),
    "CrossEncoder classes": lambda: of_pairs(
        "cross_encoder", lambda losses, model: losses.CrossEntropyLoss(model), [row % 3 for row in range(ROWS)],
        num_labels=3,
    ),
    "SentenceTransformer": lambda: of_pairs(
        "sentence_transformer", lambda losses, model: losses.CoSENTLoss(model), YES
    ),
    "SFTTrainer": lambda: of_trl("SFT", lambda: model_of(hf.GPT2LMHeadModel, tiny_gpt()), {"text": texts()}),
    "RewardTrainer": lambda: of_trl(
        "Reward",
        lambda: model_of(hf.GPT2ForSequenceClassification, tiny_gpt(), num_labels=1),
        {"chosen": texts(), "rejected": texts()[::-1]},
    ),
}  # fmt: skip
UNREADABLE |= {
    "SentenceTransformer negatives": (
        lambda: of_pairs("sentence_transformer", lambda losses, model: losses.MultipleNegativesRankingLoss(model)),
        "pairs of texts .* pass signals=",
    ),
    "SentenceTransformer classes": (
        lambda: of_pairs(
            "sentence_transformer",
            lambda losses, model: losses.SoftmaxLoss(model, model.get_embedding_dimension(), num_labels=2),
            [row % 2 for row in range(ROWS)],
        ),
        "pairs of texts .* pass signals=",
    ),
}


def next_words(outputs, batch):
    """Signals of a causal language model: the logits of a position are about the next one."""
    labels = batch["labels"][:, 1:]
    known = labels != -100
    return Signals({"tokens": HeadSignals(outputs.logits[:, :-1].detach(), labels.masked_fill(~known, 0), known)})


def preferences(outputs, _batch):
    """Signals of a reward model: two classes, of which the chosen answer is right."""
    chosen, rejected = outputs.logits.detach().flatten().chunk(2)
    return Signals(
        {"label": HeadSignals(torch.stack([rejected, chosen], 1), torch.ones(len(chosen), dtype=torch.int64))}
    )


READERS = {"run_clm": next_words, "SFTTrainer": next_words, "RewardTrainer": preferences}


@pytest.mark.cpu
@pytest.mark.parametrize("name", [*SCRIPTS, *UNREADABLE])
def test_keep_one_has_the_losses_of_the_plain_script(name, tmp_path):
    script = (SCRIPTS.get(name) or UNREADABLE[name][0])()
    _, plain = script.run(tmp_path / "plain")
    trainer, losses = script.run(tmp_path / "diet", Diet(keep=1.0))
    assert losses == plain
    assert len(losses) == EPOCHS * ROWS // BATCH
    assert len(trainer.diet.history.to_pandas()) == (0 if name in UNREADABLE else EPOCHS * ROWS)


@pytest.mark.cpu
def test_setfit(tmp_path):
    def losses(trainer):
        return [line["embedding_loss"] for line in trainer.state.log_history if "embedding_loss" in line]

    plain, _ = of_setfit().run(tmp_path / "plain")
    full, _ = of_setfit().run(tmp_path / "full", Diet(keep=1.0))
    assert losses(full) == losses(plain)
    half, _ = of_setfit().run(tmp_path / "half", hard_diet(keep=0.5))
    assert [line.kept for line in half.epoch_results] == [ROWS, ROWS // 2]
    assert half.state.global_step == (ROWS + ROWS // 2) // BATCH  # in the batches of SetFit, not the Trainer's own


@pytest.mark.cpu
@pytest.mark.parametrize("name", READERS)
def test_signals_of_ones_own_are_read_instead(name, tmp_path):
    script = SCRIPTS[name]()
    _, plain = script.run(tmp_path / "plain")
    _, losses = script.run(tmp_path / "full", Diet(keep=1.0), signals=READERS[name])
    assert losses == plain
    _, losses = script.run(tmp_path / "half", hard_diet(keep=0.5, rescore="all"), signals=READERS[name])
    assert len(losses) == (ROWS + ROWS // 2) // BATCH
    assert scores_of(tmp_path / "half")["el2n"].nunique() > 4


@pytest.mark.parametrize("rescore", [pytest.param("none", marks=pytest.mark.soak), "all"])
@pytest.mark.parametrize("name", SCRIPTS)
def test_below_keep_one_a_script_trains_on_the_plan(name, rescore, tmp_path):
    _, losses = SCRIPTS[name]().run(tmp_path, hard_diet(keep=0.5, warmup_epochs=1, rescore=rescore))
    assert len(losses) == (ROWS + ROWS // 2) // BATCH
    values = scores_of(tmp_path)
    assert (values["source"] == "train").sum() == ROWS + ROWS // 2
    # of some rows no token was masked by chance
    assert np.isfinite(values["el2n"]).mean() > 0.5 if name == "run_mlm" else np.isfinite(values["el2n"]).all()
    assert values["el2n"].nunique() > 4


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_is_refused_before_the_first_step(name, tmp_path):
    make, message = UNREADABLE[name]
    steps = []
    counting = type("Counting", (hf.TrainerCallback,), {"on_step_end": lambda *_args, **_kwargs: steps.append(1)})
    with pytest.raises(ArgumentError, match=message):
        make().run(tmp_path, hard_diet(keep=0.5), callbacks=[counting()])
    assert not steps


@pytest.mark.parametrize("weighs", [False, True])
def test_a_masked_language_model_is_read_at_its_masked_tokens(weighs, tmp_path):
    labels = [[-100, *ids[1:3], *[-100] * (len(ids) - 3)] for ids in inputs()]
    made = of_transformers(
        lambda: model_of(hf.BertForMaskedLM, tiny_config(dropout=0.0)),
        lambda: {"labels": labels},
        lambda: hf.DataCollatorForTokenClassification(TOKENIZER),
    )
    weights = np.float32([1 + row % 3 for row in range(ROWS)])
    options = {"args": settings(tmp_path, learning_rate=0.0, per_device_train_batch_size=ROWS)}
    options |= {"row_weights": weights} if weighs else {}
    trainer, _ = made.run(tmp_path, Diet(keep=1.0, score="cross_entropy", combine="mean"), **options)
    table = scores_of(tmp_path)
    table = table[table["epoch"] == 0].sort_values("row")
    trainer.model.eval()
    sums = []
    for row in trainer.train_dataset:
        with torch.no_grad():
            logits = trainer.model(
                **{name: torch.tensor([row[name]]) for name in ("input_ids", "attention_mask")}
            ).logits
        sums.append(torch.nn.functional.cross_entropy(logits[0], torch.tensor(row["labels"]), reduction="sum").item())
    assert table["loss"].tolist() == pytest.approx([one / 2 for one in sums], rel=1e-4)
    expected = np.average(sums, weights=weights if weighs else None) / 2
    logged = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert logged[0] == pytest.approx(expected, rel=1e-4)
    for options, message in (
        ({"tokens": "q_tuning(keep=0.5)"}, "a masked language model draws other tokens every epoch"),
        (
            {"select": "hardest", "keep": 0.5, "offset": "auto"},
            r"offset='auto' needs classes or tags; a language model",
        ),
    ):
        with pytest.raises(ArgumentError, match=message):
            made.run(tmp_path / "refused", Diet(**{"keep": 1.0, **options}))


def test_a_loss_that_does_not_shift_beside_a_model_that_does_is_refused(tmp_path):
    class Aligned(hf.Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            labels = inputs.pop("labels")
            outputs = model(**inputs)
            loss = torch.nn.functional.cross_entropy(outputs.logits.flatten(0, 1), labels.flatten())
            return (loss, outputs) if return_outputs else loss

    rows = Dataset.from_dict({"input_ids": inputs(), "labels": [ids[::-1] for ids in inputs()]})
    diet = Diet(keep=0.5, select="hardest", score="cross_entropy", combine="mean", offset=0.0)
    trainer = dieting(Aligned)(
        model=model_of(hf.GPT2LMHeadModel, tiny_gpt()), args=settings(tmp_path), train_dataset=rows, diet=diet,
        data_collator=hf.DataCollatorForTokenClassification(TOKENIZER),
    )  # fmt: skip
    with pytest.raises(ArgumentError, match="the loss compares the logits at each position with the label at the same"):
        trainer.train()


def summaries(kind=hf.T5ForConditionalGeneration, config=None):
    """Texts of 1 to 8 tokens, and answers of 8 to 1, so that both are padded to the same length."""
    given = [ids[: 1 + row % 8] for row, ids in enumerate(inputs())]
    columns = {"input_ids": given, "attention_mask": [[1] * len(ids) for ids in given]}
    columns |= {"token_type_ids": [[0] * len(ids) for ids in given]} if "token_type_ids" in TOKENIZER("a") else {}
    answers = [ids[: 8 - row % 8] for row, ids in enumerate(inputs())]
    return of_transformers(
        lambda: model_of(kind, config or tiny_t5()),
        lambda: {**columns, "labels": answers},
        lambda: hf.DataCollatorForSeq2Seq(TOKENIZER),
        hf.Seq2SeqTrainer,
        hf.Seq2SeqTrainingArguments,
    )


def tiny_bart():
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "max_position_embeddings": 64}
    sizes |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    special = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 3, "dropout": 0.0}
    return hf.BartConfig(vocab_size=len(TOKENIZER), **sizes, **special)


def without_dropout(config):
    config.dropout_rate = 0.0
    return config


def of_answer(model, row):
    """The losses of the tokens of an answer, each at the logits of its own place."""
    with torch.no_grad():
        logits = model.eval()(**{name: torch.tensor([row[name]]) for name in ("input_ids", "labels")}).logits[0]
    return torch.nn.functional.cross_entropy(logits, torch.tensor(row["labels"]), reduction="none")


SUMMARIES = {"t5": (hf.T5ForConditionalGeneration, tiny_t5), "bart": (hf.BartForConditionalGeneration, tiny_bart)}


@pytest.mark.parametrize("rescore", ["none", "all"])
@pytest.mark.parametrize("name", SUMMARIES)
def test_an_encoder_decoder_is_read_at_the_tokens_of_its_answers(name, rescore, tmp_path):
    kind, config = SUMMARIES[name]
    options = {"select": "hardest", "score": "cross_entropy", "combine": "mean", "rescore": rescore}
    args = settings(tmp_path, hf.Seq2SeqTrainingArguments, learning_rate=0.0)
    trainer, _ = summaries(kind, without_dropout(config())).run(tmp_path, Diet(keep=0.5, **options), args=args)
    table = scores_of(tmp_path)
    assert set(table["source"]) == ({"train", "pass"} if rescore == "all" else {"train"})
    expected = [of_answer(trainer.model, row).mean().item() for row in trainer.train_dataset]
    for row, loss, score in zip(table["row"], table["loss"], table["cross_entropy"], strict=True):
        assert loss == pytest.approx(expected[row], rel=1e-4)
        assert score == pytest.approx(expected[row], rel=1e-4)
    hardest = set(np.argsort(expected)[ROWS // 2 :].tolist())
    assert set(table[(table["epoch"] == 1) & (table["source"] == "train")]["row"]) == hardest


@pytest.mark.parametrize("select", ["q_tuning", "selective_backprop"])
def test_a_choice_within_the_batch_leaves_answers_whole(select, tmp_path):
    """Also where the texts and the answers of a batch are padded to the same length."""
    args = settings(tmp_path, hf.Seq2SeqTrainingArguments, learning_rate=0.0, per_device_train_batch_size=ROWS)
    diet = Diet(select=select, keep=0.5, warmup_epochs=0, seed=1)
    trainer, losses = summaries(config=without_dropout(tiny_t5())).run(tmp_path, diet, args=args)
    table = scores_of(tmp_path)
    for step, loss in enumerate(losses):
        rows = table[table["epoch"] == step]["row"].tolist()
        assert 0 < len(rows) < ROWS
        by_hand = torch.cat([of_answer(trainer.model, trainer.train_dataset[row]) for row in rows]).mean()
        assert loss == pytest.approx(by_hand.item(), rel=1e-4)


def test_weights_reach_the_answers_of_an_encoder_decoder(tmp_path):
    """A step of all rows is that of the weighted sum over their tokens."""
    config, row_weights = without_dropout(tiny_t5()), np.arange(1, ROWS + 1, dtype=np.float32)
    args = settings(
        tmp_path, hf.Seq2SeqTrainingArguments, optim="sgd", max_grad_norm=0.0, lr_scheduler_type="constant",
        learning_rate=0.5, num_train_epochs=1, per_device_train_batch_size=ROWS,
    )  # fmt: skip
    trainer, losses = summaries(config=config).run(tmp_path, Diet(keep=1.0), args=args, row_weights=row_weights)
    model = model_of(hf.T5ForConditionalGeneration, config).train()
    batch = hf.DataCollatorForSeq2Seq(TOKENIZER)([trainer.train_dataset[row] for row in range(ROWS)])
    logits = model(**batch).logits
    nll = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), reduction="none")
    weighed = nll.view(ROWS, -1).sum(1) * torch.from_numpy(row_weights / row_weights.mean())
    loss = weighed.sum() / (batch["labels"] != -100).sum()
    loss.backward()
    torch.optim.SGD(model.parameters(), lr=0.5).step()
    torch.testing.assert_close(weights(trainer.model), weights(model), rtol=1e-4, atol=1e-6)
    assert losses == [pytest.approx(loss.item(), rel=1e-4)]


def test_tokens_of_an_encoder_decoder_are_not_pruned(tmp_path):
    with pytest.raises(ArgumentError, match="the answers of an encoder-decoder are a text apart: choose rows"):
        summaries().run(tmp_path, Diet(keep=1.0, tokens="random_tokens"))


def test_answers_in_a_text_are_two_choices_and_their_norm(tmp_path):
    trainer, _ = question_answering().run(
        tmp_path, hard_diet(keep=0.5), model=model_of(hf.BertForQuestionAnswering, tiny_config()),
        args=settings(tmp_path, learning_rate=0.0),
    )  # fmt: skip
    with torch.no_grad():
        outputs = trainer.model.eval()(**hf.DataCollatorWithPadding(TOKENIZER)([*encoded()]))
    places = torch.tensor([row % 5 + 1 for row in range(ROWS)])
    squares = 0
    for logits, gold in ((outputs.start_logits, places), (outputs.end_logits, places + 1)):
        squares += (logits.softmax(-1) - torch.nn.functional.one_hot(gold, logits.shape[1])).square().sum(1)
    table = scores_of(tmp_path)
    table = table[table["epoch"] == 0].sort_values("row")
    assert np.allclose(table["el2n"], squares.sqrt(), atol=1e-5)
    assert trainer.epoch_results[0].dev == {} or "exact_match" in trainer.epoch_results[0].dev


def test_the_noise_guard_is_not_for_answers_in_a_text(tmp_path):
    with pytest.raises(ArgumentError, match="offset='auto' needs classes or tags; these examples have answers"):
        question_answering().run(tmp_path, hard_diet(keep=0.5, offset="auto"))
