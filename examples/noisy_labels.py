"""Why `hardest` needs a guard on noisy labels: a fifth is flipped, and the flipped ones among the kept are counted.

    python examples/noisy_labels.py

Needs `pip install 'datadiet[demo]'`. One short run on everything gives the values; the selectors are pure functions of
them, so all can be compared on the same run.
"""

import json
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

import datadiet as dd

ROWS, FLIPPED, KEEP = 420, 0.2, 0.3


def write_noisy_folder(folder: Path) -> np.ndarray:
    """train.jsonl with wrong labels, dev.jsonl with right ones; True where a training label is wrong."""
    folder.mkdir()
    packaged = dd.load_data("snips", "classification", train_rows=ROWS)
    train, dev = packaged.splits["train"], packaged.splits["dev"]
    generator = np.random.default_rng(0)
    wrong = generator.permutation(ROWS) < FLIPPED * ROWS
    lines = []
    for row, (text, label) in enumerate(zip(train.texts, train.labels, strict=True)):
        others = [name for name in packaged.label_names if name != label]
        lines.append({"text": text, "label": str(generator.choice(others)) if wrong[row] else label})
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    lines = [{"text": dev.texts[row], "label": dev.labels[row]} for row in range(0, len(dev), 7)]
    (folder / "dev.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return wrong


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        data, run = Path(temporary) / "noisy", Path(temporary) / "run"
        wrong = write_noisy_folder(data)
        config = dd.FinetuneConfig(
            data=str(data),
            task="classification",
            output=str(run),
            keep=1.0,  # values are recorded at keep 1 too
            epochs=2,
            batch_size=16,
            learning_rate=3e-4,
            checkpoint_every=0,
        )
        dd.finetune(config)
        scores = pd.read_parquet(run / "scores")

    values = scores[scores["epoch"] == 1].sort_values("row")["el2n"].to_numpy()
    selectors = {
        "hardest": dd.selectors.hardest,
        f"hardest, offset {FLIPPED:g}": partial(dd.selectors.hardest, offset=FLIPPED),
        "uncertain": partial(dd.selectors.uncertain, scale=dd.scores.EL2N_MAX),
        "random": dd.selectors.random,
    }
    print(f"wrong labels among all {ROWS} training rows: {wrong.mean():.0%}; kept: {KEEP:.0%}")
    for name, select in selectors.items():
        kept = select(values, round(KEEP * ROWS), seed=0, epoch=2).rows
        print(f"{name}: {wrong[kept].mean():.0%} of the kept rows have a wrong label")


if __name__ == "__main__":
    main()
