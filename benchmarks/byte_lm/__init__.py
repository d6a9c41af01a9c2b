"""Byte-level language models of 0.13 to 5 million parameters: configs, a tokenizer, and folders to train from scratch.

    python -m benchmarks.byte_lm FOLDER llama-1m      writes a folder for --model

Each shape is one JSON file beside this one, as `AutoConfig` reads it. A folder holds config and tokenizer, and no
weights: a run draws them from its seed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoConfig, PreTrainedTokenizerFast

HERE = Path(__file__).parent
SHAPES = tuple(sorted(file.stem for file in HERE.glob("*.json")))
PAD, EOS = "<|pad|>", "<|end|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
# the answer of an assistant, its end included, is what trains
CHAT = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}"
    "{% else %}{{ message['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def byte_tokenizer(*, chat: bool = True) -> PreTrainedTokenizerFast:
    """One token per byte, and five special ones: 261 in all.

    Args:
        chat: Whether it has a chat template, with a generation mask.
    """
    special = (PAD, EOS, *ROLES)
    pieces = (*special, *sorted(ByteLevel.alphabet()))
    model = Tokenizer(BPE({piece: number for number, piece in enumerate(pieces)}, []))
    model.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    model.decoder = ByteLevelDecoder()
    model.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in special])
    made = PreTrainedTokenizerFast(
        tokenizer_object=model,
        pad_token=PAD,
        eos_token=EOS,
        additional_special_tokens=list(ROLES),
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )
    made.chat_template = CHAT if chat else None
    return made


def config_of(shape: str) -> Any:
    """The config of a shape, one of `SHAPES`."""
    settings = json.loads((HERE / f"{shape}.json").read_text(encoding="utf-8"))
    return AutoConfig.for_model(settings.pop("model_type"), **settings)


def write_model(folder: Path, shape: str, *, chat: bool = True, **changes: Any) -> Path:
    """A folder for `--model`: the config of a shape and the tokenizer, no weights.

    Args:
        folder: Made where it is not there.
        shape: One of `SHAPES`.
        chat: Whether the tokenizer has a chat template.
        **changes: Of the config.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = config_of(shape)
    for name, value in changes.items():
        setattr(config, name, value)
    config.save_pretrained(folder)
    byte_tokenizer(chat=chat).save_pretrained(folder)
    return folder
