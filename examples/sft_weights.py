"""Per-example weights for TRL's SFTTrainer: a column `weight`, or `row_weights=`.

    python examples/sft_weights.py

Needs `pip install 'datadiet[trl]'`. The loss of a step is the sum of weight times token losses over the tokens that
TRL counts, over all batches of its accumulation; weights are brought to the mean 1. Half of the rows answer in capital
letters and weigh a tenth, so the model learns the other way of writing. The model is a tiny Llama with one token per
byte, made here and trained from nothing; nothing is downloaded.
"""

import tempfile

import torch
from datasets import Dataset
from sft_two_lines import DietSFTTrainer, byte_tokenizer, tiny_llama
from trl import SFTConfig

import datadiet as dd

COLOURS = ("amber", "birch", "cobalt", "denim")


def rows() -> list[dict]:
    """Each question twice: answered as it is asked, and in capital letters, which counts a tenth."""
    asked = [(f"repeat {one} {two}:", f" {one} {two}") for one in COLOURS for two in COLOURS] * 4
    plain = [{"prompt": prompt, "completion": answer, "weight": 1.0} for prompt, answer in asked]
    return plain + [{**row, "completion": row["completion"].upper(), "weight": 0.1} for row in plain]


def answers(weighs: bool) -> tuple[float, float]:
    """Train; the mean loss of a token of the answers in small and in capital letters."""
    tokenizer, data = byte_tokenizer(), Dataset.from_list(rows())
    data = data if weighs else data.remove_columns("weight")
    model = tiny_llama(tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        args = SFTConfig(
            output_dir=folder,
            num_train_epochs=3,
            per_device_train_batch_size=8,
            gradient_accumulation_steps=2,
            learning_rate=5e-3,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            bf16=False,
            activation_checkpointing=False,
            dataloader_pin_memory=False,
        )
        # keep=1.0 trains on every row; the weights go with any other keep too
        trainer = DietSFTTrainer(
            model=model, args=args, train_dataset=data, processing_class=tokenizer, diet=dd.Diet(keep=1.0)
        )
        trainer.train()
    model.eval()
    losses = []
    for capital in (False, True):
        prompt, answer = "repeat amber denim:", " amber denim"
        ids = tokenizer(prompt + (answer.upper() if capital else answer), return_tensors="pt")["input_ids"]
        labels = ids.clone()
        labels[:, : len(tokenizer(prompt)["input_ids"])] = -100
        with torch.no_grad():
            losses.append(model(ids, labels=labels).loss.item())
    return losses[0], losses[1]


def main() -> None:
    for name, weighs in (("all alike", False), ("capital letters weigh 0.1", True)):
        small, capital = answers(weighs)
        print(f"{name}: {small:.2f} nats a token for small letters, {capital:.2f} for capital letters")


if __name__ == "__main__":
    main()
