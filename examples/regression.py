"""Regression on pairs of sentences: their similarity from 0 to 5.

    python examples/regression.py

The same from the command line, where DATA is a folder with train.jsonl and dev.jsonl (sentence1, sentence2, score):

    datadiet finetune DATA --task regression --keep 0.5 --output runs/similarity

Needs `pip install 'datadiet[demo]'`. The pairs are made from the packaged data: the second sentence is the first one
with some of its words replaced, and the score is the share of words that stayed.
"""

import json
import tempfile
from pathlib import Path

import numpy as np

import datadiet as dd


def write_data(folder: Path) -> None:
    """Pairs with their scores."""
    folder.mkdir()
    packaged = dd.load_data("snips", "classification", train_rows=300).splits["train"]
    words = sorted({word for text in packaged.texts for word in text.split()})
    for seed, (split, rows) in enumerate({"train": range(240), "dev": range(240, 300)}.items()):
        generator = np.random.default_rng(seed)
        with (folder / f"{split}.jsonl").open("w", encoding="utf-8") as stream:
            for row in rows:
                one = packaged.texts[row].split()
                replaced = generator.random(len(one)) < generator.random()
                two = [str(generator.choice(words)) if new else word for word, new in zip(one, replaced, strict=True)]
                pair = {"sentence1": " ".join(one), "sentence2": " ".join(two), "score": 5 * (1 - replaced.mean())}
                stream.write(json.dumps({"id": f"{split}-{row}", **pair}) + "\n")


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        data, run = Path(temporary) / "similarity", Path(temporary) / "run"
        write_data(data)
        config = dd.FinetuneConfig(
            data=str(data),
            task="regression",  # for numbers el2n is |prediction - score|
            output=str(run),
            keep=0.5,
            epochs=4,
            batch_size=16,
            learning_rate=2e-4,
            checkpoint_every=0,
        )
        result = dd.finetune(config)
        dev = result["metrics"]["dev"]
        print(f"dev: pearson {dev['pearson']:.3f}, spearman {dev['spearman']:.3f}, mse {dev['mse']:.3f}")
        print("test:", result["metrics"]["test"], "(there is no test split)")
        print(f"not trained: {result['ceiling']['examples_saved']:.0%} of the examples")


if __name__ == "__main__":
    main()
