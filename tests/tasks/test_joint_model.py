"""The joint model: loss by hand, every kind of encoder, saving, training options."""

from __future__ import annotations

import inspect

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from torch.nn.functional import cross_entropy, log_softmax
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from datadiet.errors import ArgumentError
from datadiet.tasks.joint_model import IntentSlotConfig, IntentSlotModel, IntentSlotOutput, mean_cross_entropy
from toys import INTENTS, KINDS, SLOTS, tiny_batch, tiny_config, tiny_intent_slot

every_kind = pytest.mark.parametrize("kind", KINDS)


def labelled(kind: str = "bert") -> dict[str, torch.Tensor]:
    batch = tiny_batch(["play miles davis", "the weather in lima on monday"], kind)
    slots = torch.full_like(batch["input_ids"], -100)
    slots[0, 1:3], slots[1, 1] = torch.tensor([6, 0]), 3
    return {**batch, "intent_labels": torch.tensor([2, 1]), "slot_labels": slots}


def outputs_of(kind: str = "bert", **options):
    return tiny_intent_slot(INTENTS, SLOTS, kind, **options)(**labelled(kind))


@every_kind
def test_every_encoder_trains_both_heads_and_all_of_itself(kind: str) -> None:
    model = tiny_intent_slot(INTENTS, SLOTS, kind).train()
    output = model(**labelled(kind))
    output.loss.backward()
    assert output.intent_logits.shape == (2, len(INTENTS))
    assert output.slot_logits.shape == (*labelled(kind)["input_ids"].shape, len(SLOTS))
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []


@pytest.mark.parametrize("auto", [AutoModel, AutoModelForSequenceClassification, IntentSlotModel])
@every_kind
def test_a_saved_model_loads_with_equal_logits(tmp_path, kind, auto) -> None:
    model = tiny_intent_slot(INTENTS, SLOTS, kind, alpha=0.25, class_weights=[1.0, 2.0, 3.0])
    model.save_pretrained(tmp_path)
    loaded = auto.from_pretrained(tmp_path).eval()
    assert isinstance(loaded, IntentSlotModel)
    for ours, theirs in zip(model(**labelled(kind)).to_tuple(), loaded(**labelled(kind)).to_tuple(), strict=True):
        assert torch.equal(ours, theirs)


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
    output = outputs_of(alpha=alpha, label_smoothing=smoothing)

    def entropy(logits: torch.Tensor, label: int) -> torch.Tensor:
        logs = log_softmax(logits, -1)
        return -(1 - smoothing) * logs[label] - smoothing * logs.mean()

    intents, slots = output.intent_logits, output.slot_logits
    intent = (entropy(intents[0], 2) + entropy(intents[1], 1)) / 2
    words = entropy(slots[0, 1], 6) + entropy(slots[0, 2], 0) + entropy(slots[1, 1], 3)
    assert output.loss.item() == pytest.approx((alpha * intent + (1 - alpha) * words / 2).item(), rel=1e-5)


def test_loss_of_a_batch_is_the_mean_of_its_examples() -> None:
    model, batch = tiny_intent_slot(INTENTS, SLOTS), labelled()
    single = [model(**{name: column[row : row + 1] for name, column in batch.items()}).loss for row in (0, 1)]
    assert model(**batch).loss.item() == pytest.approx((sum(single) / 2).item(), rel=1e-5)


def test_class_weights_weigh_the_intents_as_torch_does() -> None:
    weights, labels = [0.5, 1.0, 4.0], labelled()["intent_labels"]
    output = outputs_of(alpha=1.0, class_weights=weights)
    expected = cross_entropy(output.intent_logits, labels, torch.tensor(weights))
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert expected.item() != pytest.approx(mean_cross_entropy(output.intent_logits, labels).item(), rel=1e-3)


@pytest.mark.parametrize("weight", [None, torch.tensor([0.2, 0.1])])
def test_examples_without_an_intent_leave_the_mean(weight: torch.Tensor | None) -> None:
    logits = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0]])
    some = mean_cross_entropy(logits, torch.tensor([1, -100, 0]), weight=weight)
    assert some.item() == pytest.approx(mean_cross_entropy(logits[[0, 2]], torch.tensor([1, 0]), weight=weight).item())
    assert mean_cross_entropy(logits, torch.full((3,), -100), weight=weight) == 0


def test_outputs_are_named_and_a_loss_needs_both_kinds_of_labels() -> None:
    model, batch = tiny_intent_slot(INTENTS, SLOTS), labelled()
    assert [part.ndim for part in model(**batch, return_dict=False)] == [0, 2, 3]
    batch.pop("slot_labels")
    output = model(**batch, word_positions=torch.tensor([[1], [2]]))
    assert output.loss is None
    assert list(output) == ["intent_logits", "slot_logits"]
    assert list(IntentSlotOutput(intent_logits=torch.zeros(1, 2))) == ["intent_logits"]


def test_the_trainer_sees_the_labels_and_no_loss_kwargs() -> None:
    parameters = inspect.signature(IntentSlotModel.forward).parameters
    assert [name for name in parameters if "label" in name] == ["intent_labels", "slot_labels"]
    assert all(parameter.kind is not inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())


@every_kind
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
    model = get_peft_model(tiny_intent_slot(INTENTS, SLOTS), lora).train()
    model(**labelled()).loss.backward()
    trained = {name for name, weight in model.named_parameters() if weight.grad is not None}
    assert all("lora_" in name or "_head" in name for name in trained)
    assert len(trained) == 2 * 2 * 2 + 4  # two layers, two matrices each, A and B; two heads
    assert isinstance(model.merge_and_unload(), IntentSlotModel)


def test_bf16_logits_give_a_float32_loss() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        output = outputs_of()
    assert output.slot_logits.dtype == torch.bfloat16
    assert output.loss.dtype == torch.float32


@pytest.mark.slow
def test_torch_compile_gives_the_same_loss() -> None:
    compiled = torch.compile(tiny_intent_slot(INTENTS, SLOTS), backend="aot_eager")
    assert compiled(**labelled()).loss.item() == pytest.approx(outputs_of().loss.item(), rel=1e-5)


def test_dropout_is_the_encoders_own_unless_given() -> None:
    assert IntentSlotConfig(tiny_config(dropout=0.3)).dropout == 0.3
    assert IntentSlotConfig(tiny_config("distilbert", dropout=0.2)).dropout == 0.2
    assert IntentSlotConfig(tiny_config(dropout=0.3), dropout=0.0).dropout == 0.0


def test_the_first_logits_have_the_spread_of_the_states() -> None:
    """A head whose logits all start near 0 spends its first epochs on growing."""
    torch.manual_seed(0)
    model = IntentSlotModel(IntentSlotConfig(tiny_config(), intent_names=[str(name) for name in range(200)]))
    logits = model.intent_head(torch.randn(500, model.config.hidden_size) / 2)
    assert logits.std().item() == pytest.approx(1.0, abs=0.1)
    assert model.slot_head.bias.abs().max() == 0


def test_all_bad_options_are_named_at_once() -> None:
    with pytest.raises(ArgumentError, match=r"alpha must be in \[0, 1\], got 2") as error:
        IntentSlotConfig(intent_names=INTENTS, alpha=2, dropout=1.0, label_smoothing=-1, class_weights=[1.0])
    assert len(error.value.problems) == 4
