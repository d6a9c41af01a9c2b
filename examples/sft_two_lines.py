"""Instruction tuning with TRL and the two lines that add dynamic data pruning (marked DIET).

    python examples/sft_two_lines.py

Needs `pip install 'datadiet[trl]'`. The data are packaged, and the model is a tiny Llama with one token per byte that
is made here and trained from nothing, so that nothing is downloaded: the answers are not good, the mechanics are those
of any model of the hub. The values come from the training forward of TRL's fused head: no pass is added.
"""

import tempfile

import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

import datadiet as dd


class DietSFTTrainer(dd.DietMixin, SFTTrainer):  # DIET
    """TRL's trainer on a diet."""


def byte_tokenizer() -> PreTrainedTokenizerFast:
    words = {word: number for number, word in enumerate(("<pad>", "<eos>"))}
    words |= {letter: number + 2 for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    made = Tokenizer(models.BPE(vocab=words, merges=[]))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<eos>")


def tiny_llama(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes, **ends))


def questions(examples) -> Dataset:
    pairs = zip(examples.texts, examples.labels, strict=True)
    return Dataset.from_list([{"prompt": f"{text}\nintent:", "completion": f" {label}"} for text, label in pairs])


def main() -> None:
    packaged = dd.load_data("snips", "classification", train_rows=256)
    train, dev = questions(packaged.splits["train"]), questions(packaged.splits["dev"].take(range(0, 700, 10)))
    tokenizer = byte_tokenizer()
    with tempfile.TemporaryDirectory() as folder:
        args = SFTConfig(
            output_dir=folder,
            num_train_epochs=3,
            per_device_train_batch_size=16,
            learning_rate=3e-3,
            max_length=192,
            eval_strategy="epoch",
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            bf16=False,
            activation_checkpointing=False,
            dataloader_pin_memory=False,
        )
        diet = dd.Diet(score="cross_entropy", combine="mean", select="hardest", keep=0.5, seed=13)  # DIET
        trainer = DietSFTTrainer(  # DIET: was SFTTrainer(
            model=tiny_llama(tokenizer),
            args=args,
            train_dataset=train,
            eval_dataset=dev,
            processing_class=tokenizer,
            diet=diet,
        )
        trainer.train()

        prepared = trainer.train_dataset  # without rows whose answer TRL has cut away
        planned = diet.forecast(len(prepared), epochs=3, batch=16)
        print(f"steps: planned {planned.steps}, done {trainer.state.global_step}, full data {planned.full_steps}")
        for line in trainer.epoch_results:
            print(f"epoch {line.epoch}: trained {line.kept}, dropped {line.dropped}, dev nll {line.dev['loss']:.3f}")
        history = diet.history.to_pandas()
        hardest = history[history["epoch"] == 0].nlargest(3, "cross_entropy")
        for row, value in zip(hardest["row"], hardest["cross_entropy"], strict=True):
            print(f"{value:.2f} nats a token: {prepared[int(row)]['prompt'].splitlines()[0]}")


if __name__ == "__main__":
    main()
