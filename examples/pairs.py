"""A Trainer subclass with a diet: sentence-transformers on pairs of texts, through `DietMixin`.

    python examples/pairs.py

Needs `pip install 'datadiet[demo]' sentence-transformers`. The pairs are generated; 1 means the same request.
"""

import tempfile

import numpy as np
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import CosineSimilarityLoss

import datadiet as dd
from datadiet.tasks.loading import resolve_model

ROWS = 128


class DietSentenceTrainer(dd.DietMixin, SentenceTransformerTrainer):
    """The trainer of sentence-transformers with a diet."""


def make_pairs(rows: int) -> Dataset:
    """Two requests each from the packaged data; the label is 1 where they have the same intent."""
    train = dd.load_data("snips", "classification", train_rows=2 * rows).splits["train"]
    generator = np.random.default_rng(0)
    left, right = generator.integers(len(train), size=(2, rows))
    same = [float(train.labels[one] == train.labels[two]) for one, two in zip(left, right, strict=True)]
    texts = {"sentence1": [train.texts[row] for row in left], "sentence2": [train.texts[row] for row in right]}
    return Dataset.from_dict({**texts, "score": same})


def main() -> None:
    model = SentenceTransformer(resolve_model("minilm"), device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        args = SentenceTransformerTrainingArguments(
            output_dir=folder,
            num_train_epochs=3,
            per_device_train_batch_size=16,
            learning_rate=5e-5,
            save_strategy="no",
            dataloader_pin_memory=False,
            report_to="none",
        )
        diet = dd.Diet(keep=0.5, select="uncertain", refresh_every=1)
        trainer = DietSentenceTrainer(
            model=model, args=args, train_dataset=make_pairs(ROWS), loss=CosineSimilarityLoss(model), diet=diet
        )
        trainer.train()
        print("examples per epoch:", [line.kept for line in trainer.epoch_results])
        history = diet.history.to_pandas()  # el2n is |cosine - label| here
        print("mean |cosine - label| per epoch:", history.groupby("epoch")["el2n"].mean().round(3).tolist())


if __name__ == "__main__":
    main()
