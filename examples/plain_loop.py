"""Dynamic data pruning in a plain PyTorch loop, without the Trainer.

    python examples/plain_loop.py

Generated data and a small network: a few seconds.
"""

import torch
from torch.nn import functional

import datadiet as dd
from datadiet.types import HeadSignals, Signals

ROWS, BATCH, EPOCHS = 2048, 32, 8


def make_data(rows: int, seed: int) -> list[dict[str, torch.Tensor]]:
    """Points of four classes in the plane: most are easy, those near the borders are not."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(rows, 2, generator=generator)
    labels = (points[:, 0] > 0).long() + 2 * (points[:, 1] > 0).long()
    return [{"x": point, "labels": label} for point, label in zip(points, labels, strict=True)]


def train(diet: dd.Diet, data: list[dict[str, torch.Tensor]], **options) -> torch.nn.Module:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(2, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    planned = diet.forecast(len(data), epochs=EPOCHS, batch=BATCH)
    rate = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=planned.steps)

    def signals(rows):
        """The forward pass of a scoring pass, with rescore "all" or "dropped"."""
        x = torch.stack([data[row]["x"] for row in rows])
        labels = torch.stack([data[row]["labels"] for row in rows])
        model.eval()
        with torch.inference_mode():
            logits = model(x)
        model.train()
        return Signals({"label": HeadSignals(logits, labels)})

    passes = {"signals": signals} if diet.options.config.rescore != "none" else {}
    for epoch in dd.epochs(diet, EPOCHS, num_examples=len(data), batch_size=BATCH, **passes):
        for batch in epoch.loader(data, batch_size=BATCH):
            logits = model(batch.inputs["x"])
            loss = functional.cross_entropy(logits, batch.labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
            epoch.observe(batch.rows, logits, batch.labels)  # the values are free: no second forward pass
    return model


def main() -> None:
    data, test = make_data(ROWS, seed=0), make_data(ROWS, seed=1)
    x, labels = (torch.stack([row[name] for row in test]) for name in ("x", "labels"))
    for keep, rescore in ((1.0, "none"), (0.25, "none"), (0.25, "all")):
        diet = dd.Diet(keep=keep, select="hardest", refresh_every=1, rescore=rescore)
        model = train(diet, data)
        accuracy = (model(x).argmax(-1) == labels).float().mean().item()
        planned = diet.forecast(ROWS, epochs=EPOCHS, batch=BATCH)
        print(
            f"keep {keep:g}, rescore {rescore}: {planned.steps} steps, at most {planned.examples_scored} examples "
            f"scored, test accuracy {accuracy:.3f}"
        )


if __name__ == "__main__":
    main()
