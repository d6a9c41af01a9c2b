from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets import Dataset

from datadiet.errors import ArgumentError
from datadiet.training.trainer import DietMixin
from toys import hard_diet, tiny_model_folder

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
st = pytest.importorskip("sentence_transformers")
losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")


class DietSentenceTrainer(DietMixin, st.SentenceTransformerTrainer):
    pass


def pairs(n=24):
    words = ["amber", "birch", "cobalt", "denim"]
    rng = np.random.default_rng(0)
    left, right = rng.integers(0, 4, n), rng.integers(0, 4, n)
    return Dataset.from_dict(
        {
            "sentence1": [f"the {words[a]} is here" for a in left],
            "sentence2": [f"this was {words[b]} for a while" for b in right],
            "score": [float(a == b) for a, b in zip(left, right, strict=True)],
        }
    )


def build(tmp_path, diet, data=None, loss=None, **changes):
    folder = tiny_model_folder(tmp_path / "model")
    model = st.SentenceTransformer(str(folder), device="cpu")
    settings = {
        "num_train_epochs": 3, "per_device_train_batch_size": 4, "learning_rate": 1e-3, "report_to": "none",
        "save_strategy": "no", "disable_tqdm": True, "use_cpu": True, "logging_steps": 1, **changes,
    }  # fmt: skip
    args = st.SentenceTransformerTrainingArguments(output_dir=str(tmp_path / "run"), **settings)
    loss = (loss or losses.CosineSimilarityLoss)(model)
    return DietSentenceTrainer(model=model, args=args, train_dataset=data or pairs(), loss=loss, diet=diet)


@pytest.mark.parametrize("rescore", ["none", "all"])
def test_a_diet_on_pairs(tmp_path, rescore):
    trainer = build(tmp_path, hard_diet(keep=0.5, refresh_every=1, rescore=rescore))
    trainer.train()
    assert trainer.state.global_step == 6 + 3 + 3
    assert trainer.lr_scheduler.get_last_lr()[0] == 0.0
    history = trainer.diet.history.to_pandas()
    assert (history["source"] == "train").sum() == 24 + 12 + 12
    assert (history["source"] == "pass").sum() == (48 if rescore == "all" else 0)


def test_values_are_the_error_of_the_cosine(tmp_path):
    trainer = build(tmp_path, hard_diet(keep=0.5), learning_rate=0.0)
    trainer.model.eval()
    data = pairs()
    with torch.no_grad():
        left, right = (trainer.model.encode(data[name], convert_to_tensor=True) for name in ("sentence1", "sentence2"))
    expected = (torch.nn.functional.cosine_similarity(left, right) - torch.tensor(data["score"][:])).abs().numpy()
    trainer.train()
    history = trainer.diet.history.to_pandas()
    assert np.allclose(history["el2n"], expected[history["row"]], atol=1e-5)


def test_losses_that_the_diet_cannot_read_are_refused(tmp_path):
    trainer = build(
        tmp_path, hard_diet(), data=pairs().remove_columns("score"), loss=losses.MultipleNegativesRankingLoss
    )
    with pytest.raises(ArgumentError, match="pass signals="):
        trainer.train()


def test_a_batch_sampler_whose_order_cannot_be_kept_is_refused(tmp_path):
    trainer = build(tmp_path, hard_diet(keep=0.5), batch_sampler="no_duplicates")
    with pytest.raises(ArgumentError, match=r"BatchSamplers\.BATCH_SAMPLER"):
        trainer.train()
