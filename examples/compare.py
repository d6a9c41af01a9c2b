"""Does a method of your own help? It is written in YAML and compared with its baselines; a verdict follows.

    python examples/compare.py

The same from the command line, where DATA is your data and compare.yaml holds the SETTINGS below:

    datadiet compare DATA --config compare.yaml --output runs/compare
    datadiet report runs/compare

Needs `pip install 'datadiet[demo,compare,report]'`. One seed on a few rows ends soon and can show nothing, as the
verdict states. examples/compare_and_report.ipynb has the figures.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

import datadiet as dd

SETTINGS = {
    "task": "classification",
    "methods": [{"careful": {"select": "ccs(beta=0.05)", "floor": 4}}],
    "keep": 0.5,
    "baselines": ["full", "short"],  # by default also random
    "seeds": 1,  # at least 3 for useful intervals
    "epochs": 3,
    "refresh_every": 1,
    "batch_size": 16,
    "learning_rate": 3e-4,
}
STEPS = {"train": 1, "dev": 14, "test": 7}  # every so many rows


def write_folder(folder: Path) -> Path:
    """Your data: train, dev and test."""
    folder.mkdir()
    packaged = dd.load_data("snips", "classification", train_rows=128).splits
    for split, step in STEPS.items():
        rows = packaged[split].take(range(0, len(packaged[split]), step))
        lines = [
            json.dumps({"text": text, "label": label}) for text, label in zip(rows.texts, rows.labels, strict=True)
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        settings, output = folder / "compare.yaml", folder / "compare"
        settings.write_text(yaml.safe_dump(SETTINGS), encoding="utf-8")
        data = str(write_folder(folder / "data"))
        command = [
            sys.executable,
            "-m",
            "datadiet",
            "compare",
            data,
            "--config",
            str(settings),
            "--output",
            str(output),
        ]
        subprocess.run(command, check=True)

        found = json.loads((output / "comparison.json").read_text(encoding="utf-8"))
        for run in found["runs"]:
            print(f"{run['name']}: {run['steps']} steps, accuracy {run['metrics']['test']['accuracy']:.3f}")
        print(found["methods"][1]["verdict"])
        page = dd.report(output)
        print(f"{page.name}: {page.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
