"""Models by name: stock classifiers, and the joint intent + slot model, which the Auto classes know once this is
imported."""

from datadiet.models.intent_slot import IntentSlotConfig, IntentSlotModel, IntentSlotOutput
from datadiet.models.loading import load_classifier, load_encoder, load_intent_slot, load_saved
from datadiet.models.pretrained import load_tokenizer
from datadiet.models.sources import resolve_model

__all__ = [
    "IntentSlotConfig",
    "IntentSlotModel",
    "IntentSlotOutput",
    "load_classifier",
    "load_encoder",
    "load_intent_slot",
    "load_saved",
    "load_tokenizer",
    "resolve_model",
]
