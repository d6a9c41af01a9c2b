"""A tolerance instead of a keep: the diet finds the share of each epoch from the points that may be lost.

    python examples/tolerance.py

The same from the command line:

    datadiet finetune DATA --task classification --tolerance 0.5 --output runs/tolerant

Needs `pip install 'datadiet[demo]'`. It runs on a few rows of packaged data; with so small a dev split the dev
metric is a rough guard (docs/tolerance.md).
"""

import tempfile
from pathlib import Path

import datadiet as dd

POINTS = 2.0


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        config = dd.FinetuneConfig(
            data="snips",
            task="classification",
            tolerance=POINTS,
            train_rows=192,
            epochs=4,
            batch_size=16,
            learning_rate=3e-4,
            output=str(Path(folder) / "tolerant"),
        )
        result = dd.finetune(config)
    for line in result["epochs"]:
        print(f"epoch {line['epoch']}: {line['kept']} of 192 rows, dev accuracy {line['dev']['accuracy']:.1%}")
    saved = result["ceiling"]["tokens_saved"]
    print(f"test accuracy {result['metrics']['test']['accuracy']:.1%}; {saved:.0%} of the tokens were not trained on")
    print(result["tolerance"]["advice"])


if __name__ == "__main__":
    main()
