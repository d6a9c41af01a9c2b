"""The joint model: loss by hand, every kind of encoder, saving, training options."""

from __future__ import annotations

import inspect

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from torch.nn.functional import log_softmax
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from datadiet.errors import ArgumentError
from datadiet.tasks.joint_model import IntentSlotConfig, IntentSlotModel, IntentSlotOutput, mean_cross_entropy
from toys import INTENTS, KINDS, SLOTS, tiny_batch, tiny_config, tiny_intent_slot

TEXTS = ["play miles davis", "the weather in lima on monday"]
INTENT_LABELS = torch.tensor([2, 1])


def labelled(kind: str) -> dict[str, torch.Tensor]:
    batch = tiny_batch(TEXTS, kind)
    slots = torch.full_like(batch["input_ids"], -100)
    slots[0, 1:3] = torch.tensor([6, 0])
    slots[1, 1] = 3
    return {**batch, "intent_labels": INTENT_LABELS, "slot_labels": slots}


@pytest.mark.parametrize("kind", KINDS)
def test_every_encoder_trains_both_heads_and_all_of_itself(kind: str) -> None:
    model = tiny_intent_slot(INTENTS, SLOTS, kind).train()
    output = model(**labelled(kind))
    output.loss.backward()
    assert output.intent_logits.shape == (2, len(INTENTS))
    assert output.slot_logits.shape == (*labelled(kind)["input_ids"].shape, len(SLOTS))
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []


@pytest.mark.parametrize("auto", [AutoModel, AutoModelForSequenceClassification, IntentSlotModel])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_loads_with_equal_logits(tmp_path, kind, auto) -> None:
    model = tiny_intent_slot(INTENTS, SLOTS, kind, alpha=0.25, class_weights=[1.0, 2.0, 3.0])
    model.save_pretrained(tmp_path)
    loaded = auto.from_pretrained(tmp_path).eval()
    ours, theirs = model(**labelled(kind)), loaded(**labelled(kind))
    assert isinstance(loaded, IntentSlotModel)
    assert torch.equal(ours.intent_logits, theirs.intent_logits)
    assert torch.equal(ours.slot_logits, theirs.slot_logits)
    assert torch.equal(ours.loss, theirs.loss)


def test_the_saved_folder_is_safetensors_and_its_config_holds_the_names(tmp_path) -> None:
    tiny_intent_slot(INTENTS, SLOTS).save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    with safe_open(tmp_path / "model.safetensors", "pt") as weights:
        assert "slot_head.weight" in weights.keys()  # noqa: SIM118
    assert (config.intent_names, config.slot_names) == (list(INTENTS), list(SLOTS))
    assert config.id2label == dict(enumerate(INTENTS))


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_equals_the_formula(alpha: float, smoothing: float) -> None:
    model = tiny_intent_slot(INTENTS, SLOTS, alpha=alpha, label_smoothing=smoothing)
    output = model(**labelled("bert"))

    def entropy(logits: torch.Tensor, label: int) -> torch.Tensor:
        logs = log_softmax(logits, -1)
        return -(1 - smoothing) * logs[label] - smoothing * logs.mean()

    intent = (entropy(output.intent_logits[0], 2) + entropy(output.intent_logits[1], 1)) / 2
    slots = output.slot_logits
    words = entropy(slots[0, 1], 6) + entropy(slots[0, 2], 0) + entropy(slots[1, 1], 3)
    assert output.loss.item() == pytest.approx((alpha * intent + (1 - alpha) * words / 2).item(), rel=1e-5)


def test_loss_of_a_batch_is_the_mean_of_its_examples() -> None:
    model, batch = tiny_intent_slot(INTENTS, SLOTS), labelled("bert")
    single = [model(**{name: column[row : row + 1] for name, column in batch.items()}).loss for row in (0, 1)]
    assert model(**batch).loss.item() == pytest.approx((sum(single) / 2).item(), rel=1e-5)


def test_class_weights_weigh_the_intents_as_torch_does() -> None:
    weights = [0.5, 1.0, 4.0]
    model = tiny_intent_slot(INTENTS, SLOTS, alpha=1.0, class_weights=weights)
    output = model(**labelled("bert"))
    expected = torch.nn.functional.cross_entropy(output.intent_logits, INTENT_LABELS, torch.tensor(weights))
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert expected.item() != pytest.approx(mean_cross_entropy(output.intent_logits, INTENT_LABELS).item(), rel=1e-3)


@pytest.mark.parametrize("weight", [None, torch.tensor([0.2, 0.1])])
def test_examples_without_an_intent_leave_the_mean(weight: torch.Tensor | None) -> None:
    logits = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0]])
    some = mean_cross_entropy(logits, torch.tensor([1, -100, 0]), weight=weight)
    assert some.item() == pytest.approx(mean_cross_entropy(logits[[0, 2]], torch.tensor([1, 0]), weight=weight).item())
    assert mean_cross_entropy(logits, torch.full((3,), -100), weight=weight) == 0


def test_no_loss_without_both_kinds_of_labels() -> None:
    batch = labelled("bert")
    batch.pop("slot_labels")
    output = tiny_intent_slot(INTENTS, SLOTS)(**batch, word_positions=torch.tensor([[1], [2]]))
    assert output.loss is None
    assert list(output) == ["intent_logits", "slot_logits"]


def test_a_plain_tuple_on_request() -> None:
    output = tiny_intent_slot(INTENTS, SLOTS)(**labelled("bert"), return_dict=False)
    assert [part.ndim for part in output] == [0, 2, 3]


def test_the_trainer_sees_the_labels_and_no_loss_kwargs() -> None:
    parameters = inspect.signature(IntentSlotModel.forward).parameters
    assert [name for name in parameters if "label" in name] == ["intent_labels", "slot_labels"]
    assert all(parameter.kind is not inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_checkpointing_changes_no_gradient(kind: str) -> None:
    plain, checkpointed = (tiny_intent_slot(INTENTS, SLOTS, kind).train() for _ in range(2))
    checkpointed.activation_checkpointing_enable()
    for model in (plain, checkpointed):
        model(**labelled(kind)).loss.backward()
    gradients = zip(plain.parameters(), checkpointed.parameters(), strict=True)
    assert any(getattr(layer, "gradient_checkpointing", False) for layer in checkpointed.modules())
    assert all(torch.allclose(ours.grad, theirs.grad, atol=1e-6) for ours, theirs in gradients)


# peft reads a property that transformers has renamed
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_lora_trains_adapters_and_heads_alone() -> None:
    lora = LoraConfig(r=2, target_modules=["query", "value"], modules_to_save=["intent_head", "slot_head"])
    model = get_peft_model(tiny_intent_slot(INTENTS, SLOTS), lora)
    model.train()
    model(**labelled("bert")).loss.backward()
    trained = {name for name, weight in model.named_parameters() if weight.grad is not None}
    assert all("lora_" in name or "_head" in name for name in trained)
    assert len(trained) == 2 * 2 * 2 + 4  # two layers, two matrices each, A and B; two heads
    merged = model.merge_and_unload()
    assert isinstance(merged, IntentSlotModel)


def test_bf16_logits_give_a_float32_loss() -> None:
    model = tiny_intent_slot(INTENTS, SLOTS)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(**labelled("bert"))
    assert output.slot_logits.dtype == torch.bfloat16
    assert output.loss.dtype == torch.float32


@pytest.mark.slow
def test_torch_compile_gives_the_same_loss() -> None:
    model = tiny_intent_slot(INTENTS, SLOTS)
    expected = model(**labelled("bert")).loss
    compiled = torch.compile(model, backend="aot_eager")
    assert compiled(**labelled("bert")).loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_dropout_is_the_encoders_own_unless_given() -> None:
    assert IntentSlotConfig(tiny_config(dropout=0.3)).dropout == 0.3
    assert IntentSlotConfig(tiny_config("distilbert", dropout=0.2)).dropout == 0.2
    assert IntentSlotConfig(tiny_config(dropout=0.3), dropout=0.0).dropout == 0.0


def test_the_first_logits_have_the_spread_of_the_states() -> None:
    """A head whose logits all start near 0 spends its first epochs on growing."""
    torch.manual_seed(0)
    names = [str(number) for number in range(200)]
    model = IntentSlotModel(IntentSlotConfig(tiny_config(), intent_names=names, slot_names=["O"]))
    states = torch.randn(500, model.config.hidden_size) / 2
    logits = model.intent_head(states)
    assert logits.std().item() == pytest.approx(1.0, abs=0.1)
    assert model.slot_head.bias.abs().max() == 0


def test_all_bad_options_are_named_at_once() -> None:
    with pytest.raises(ArgumentError, match=r"alpha must be in \[0, 1\], got 2") as error:
        IntentSlotConfig(intent_names=INTENTS, alpha=2, dropout=1.0, label_smoothing=-1, class_weights=[1.0])
    assert len(error.value.problems) == 4


def test_output_names() -> None:
    assert list(IntentSlotOutput(intent_logits=torch.zeros(1, 2))) == ["intent_logits"]
