"""Pack everything that the GPU measurements need into one file, for a machine that can fetch nothing.

    python benchmarks/gpu/pack.py build/gpu --data-root DATA             # minutes; then carry build/gpu there
    bash run.sh OUT                                                      # there, in that folder (benchmarks/README.md)

The bundle holds `site/` (packages that are missing there: of this environment where they are plain Python, of wheels in
--wheels where they are compiled or another Python needs other ones), `project/` (the last commit), `data/` (the sets
that are there), and `model/` (the weights as bf16, which halves them; training loads them as fp32).
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from importlib.metadata import distribution
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[2]
LIMIT_MIB = 64  # what such a machine takes along
# what a machine with torch, pandas and scikit-learn lacked
PACKAGES = "transformers,datasets,dill,multiprocess,seqeval,rich,markdown-it-py,mdurl,pygments,typer,click,shellingham"
SETS = "atis,banking77,clinc150"
COMPILED = (".so", ".pyd", ".dylib")


def pack_site(packages: Sequence[str], wheels: Path | None, site: Path) -> None:
    """The packages, importable from one folder.

    Raises:
        SystemExit: If one is compiled for this Python and has no wheel.
    """
    site.mkdir()
    files = [] if wheels is None else sorted(wheels.glob("*.whl"))
    unpacked = {file.name.partition("-")[0].replace("_", "-").lower() for file in files}
    for file in files:
        zipfile.ZipFile(file).extractall(site)
    for name in packages:
        if name.replace("_", "-").lower() in unpacked:
            continue
        found = distribution(name)
        inside = [file for file in found.files or () if ".." not in file.parts and "__pycache__" not in file.parts]
        if compiled := [file for file in inside if file.suffix in COMPILED]:
            sys.exit(
                f"{name} is compiled for this Python ({compiled[0].name}): put a wheel for that machine in --wheels."
            )
        for part in inside:
            target = site / part
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(str(found.locate_file(part)), target)


def pack_project(folder: Path) -> None:
    """The last commit."""
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as commit:
        commit.extractall(folder, filter="data")


def pack_model(name: str, folder: Path) -> None:
    """A model folder with its weights as bf16 and a config that says fp32."""
    import torch
    from safetensors.torch import load_file, save_file

    from datadiet.tasks.loading import resolve_model

    source = Path(resolve_model(name))
    folder.mkdir()
    for file in source.iterdir():
        if file.is_file() and file.suffix in (".json", ".txt", ".model"):
            shutil.copyfile(file, folder / file.name)
    weights = load_file(source / "model.safetensors")
    halved = {key: value.to(torch.bfloat16) if value.is_floating_point() else value for key, value in weights.items()}
    save_file(halved, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config.pop("torch_dtype", None)
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "float32"}, indent=1), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="a folder; takes bundle.tar.xz and run.sh")
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--sets", default=SETS, help=f"folders of DATA; those that are there (default: {SETS})")
    parser.add_argument("--packages", default=PACKAGES, help="comma-separated names of distributions")
    parser.add_argument("--wheels", type=Path, help="a folder of wheels, which come before this environment's packages")
    parser.add_argument("--model", default="minilm", help="a model folder; minilm is packaged")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    bundle = options.output / "bundle.tar.xz"
    with TemporaryDirectory(prefix="datadiet-bench-") as work:
        folder = Path(work)
        pack_site([name for name in options.packages.split(",") if name], options.wheels, folder / "site")
        pack_project(folder / "project")
        pack_model(options.model, folder / "model")
        (folder / "data").mkdir()
        for name in options.sets.split(","):
            if (options.data_root / name).is_dir():
                shutil.copytree(options.data_root / name, folder / "data" / name)
            else:
                print(f"{name} left out, there is no {options.data_root / name}")
        with tarfile.open(bundle, "w:xz") as archive:
            for part in sorted(folder.iterdir()):
                archive.add(part, part.name)
    shutil.copyfile(Path(__file__).with_name("run.sh"), options.output / "run.sh")
    size = bundle.stat().st_size / 2**20
    print(f"{bundle.name}: {size:.1f} MiB of {LIMIT_MIB}")
    if size > LIMIT_MIB:
        sys.exit("too large: leave out sets or packages")


if __name__ == "__main__":
    main()
