"""Every command of the README and of two pages as it is written there, and every script and notebook of examples/.

    python tests/commands.py readme            # or `make readme`; prints each command, fails where one fails
    python tests/commands.py corpora           # the same with docs/choosing.md and docs/corpus.md
    python tests/commands.py examples          # or `make examples`
    python tests/commands.py examples-in-short # of the packaged model only the first layers: what `.ci/run` takes

The README's run in one folder, in which `DATA`, `MODEL` and `mine.csv` are 180 short reviews and a tiny random model;
`minilm` is that model as well. The pages have prompts with answers instead. What needs Ray, installs or clones is only
looked at: its extras and targets must be there, and `.ci/run` makes `make test` itself. Commands and scripts start as
copies of this process, which has imported torch already; so do the commands that they start, and the runs that
`datadiet compare` starts. The cells of a notebook run as IPython runs them.
"""

from __future__ import annotations

import csv
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from benchmarks.forking import started_copy  # noqa: E402

from launching import forked, unwaited  # noqa: E402 - beside this file

MOODS = {"good": ("great", "lovely", "superb"), "bad": ("awful", "poor", "dull")}
THINGS = ("film", "song", "book", "meal", "walk")
JOBS = 2
LAYERS = 2  # of six
RUNS = ("runs/small", "runs/full")
BRIEF = "--keep 1 --keep-checkpoints --epochs 2 --max-length 64 --output RUN"
LOOKED_AT = re.compile(
    r"datadiet .* --engine ray .*|git clone \S+|"
    r"git clone <[^>]*> \S+ && cd \S+|make (demo|test)|pip install '\S+( @ \S+)?'"
)


def commands(page: str) -> Iterator[str]:
    """The commands of the bash blocks of a page, without comments, one string each."""
    for block in re.findall(r"^```bash\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if command := re.sub(r"(^|\s)#.*", "", line).strip():
                yield re.sub(r" +", " ", command)


def write_data(folder: Path) -> None:
    """What the README speaks of: a csv file, a folder of three splits."""
    rows = [
        (f"a {word} {thing}, {end}", mood)
        for mood, words in MOODS.items()
        for word in words
        for thing in THINGS
        for end in ("really", "as ever", "again", "I think", "no doubt", "for sure")
    ]
    (folder / "DATA").mkdir()
    for name, part in {"mine": rows, "DATA/train": rows[::2], "DATA/dev": rows[1::4], "DATA/test": rows[3::4]}.items():
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([("text", "label"), *part])


def write_corpus() -> None:
    """What the pages on corpora speak of: sums and definitions as prompts with answers, and an untrained model."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from toys import tiny_lm_folder, write_rows

    sums = [
        {"prompt": f"add {n} and {n * 7 % 40}", "response": str(n + n * 7 % 40), "subtask": "sums"} for n in range(40)
    ]
    asked = [(f"what is a {thing} of {n}", f"a {thing} is a {n * 5 % 17}") for n in range(12) for thing in THINGS]
    told = [{"prompt": prompt, "response": answer, "subtask": "things"} for prompt, answer in asked]
    rows = [*sums[:20], *told]
    parts = {"DATA/train": rows[::2], "DATA/dev": rows[1::4], "WANTED/train": sums[20:]}
    parts |= {"CORPUS/a": rows[:30], "CORPUS/b": rows[30:]}
    for name, part in parts.items():
        Path(name).parent.mkdir(exist_ok=True)
        write_rows(Path(f"{name}.jsonl"), part)
    folder = tiny_lm_folder(Path(), chat=False).rename("MODEL")
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)).save_pretrained(folder)


class Forked:
    """What `subprocess.Popen` is for `datadiet`, without the seconds of its imports."""

    def __init__(
        self, command: Sequence[str], *, stdout: Any = None, stderr: Any = None, stdin: Any = None, env: Any = None
    ) -> None:
        del stdin
        arguments = list(command[command.index("datadiet") + 1 :])
        self.stdin, self._code = None, None
        work = partial(self._run, arguments, {} if env is None else env)
        with open(os.devnull, "w") as nothing:
            out, err = (nothing if stream == subprocess.DEVNULL else stream for stream in (stdout, stderr))
            self.pid = started_copy(work, stdout=out, stderr=err)

    def _run(self, arguments: list[str], environment: Mapping[str, str]) -> None:
        """The command, in the copy of this process."""
        from datadiet.cli import run

        os.environ.update({name: value for name, value in environment.items() if name != "DATADIET_ENDS_WITH_STDIN"})
        run(time.perf_counter(), arguments)

    def wait(self) -> int:
        """Its exit code, when it has ended."""
        if self._code is None:
            self._code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._code

    def poll(self) -> int | None:
        """None: only a comparison that is stopped asks."""
        return self._code

    def terminate(self) -> None:
        """End it."""
        os.kill(self.pid, 15)


STARTED = subprocess.Popen


def started(command: Any, *others: Any, **options: Any) -> Any:
    """A copy of this process for `python -m datadiet ...`; everything else as it would start."""
    of_datadiet = isinstance(command, list) and command[1:3] == ["-m", "datadiet"]
    return Forked(command, **options) if of_datadiet else STARTED(command, *others, **options)


def problem_of(command: str) -> str:
    """What is wrong with a command that installs, clones or makes; empty where nothing is."""
    if not LOOKED_AT.fullmatch(command):
        return "neither a datadiet command nor one that installs"
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = [name for part in re.findall(r"\[(.*?)\]", command) for name in part.split(",")]
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    missing = [name for name in named if name not in extras]
    missing += [name for name in re.findall(r"make (\w+)", command) if name not in targets]
    return f"no {', '.join(missing)} here" if missing else ""


def readme() -> None:
    """The README's commands, in order, in one folder."""
    from datadiet.tasks import loading
    from toys import tiny_model_folder

    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        write_data(Path())
        model = tiny_model_folder(Path()).rename("MODEL").resolve()
        loading._packaged_folder = lambda: model
        follow(ROOT / "README.md")


def corpora() -> None:
    """The commands of the pages on corpora, each page in a folder of its own with copies of one run, by many names."""
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        write_corpus()
        trained = Path("RUN").resolve()
        if code := Forked(shlex.split(f"datadiet finetune DATA --task causal-lm --model MODEL {BRIEF}")).wait():
            sys.exit(f"the run of the pages: exit code {code}")
        for page, runs in {"choosing": ("RUN", "ORIGINAL", "DAMAGED", *RUNS), "corpus": RUNS[:1]}.items():
            home = Path(place, page)
            home.mkdir()
            os.chdir(home)
            write_corpus()
            for run in runs:
                shutil.copytree(trained, run)
            follow(ROOT / "docs" / f"{page}.md")


def follow(page: Path) -> None:
    """The commands of a page, in order; the first fault ends it."""
    import transformers  # noqa: F401 - what a command imports, once

    import datadiet.jobs.finetune  # noqa: F401

    wanted = list(commands(page.read_text(encoding="utf-8")))
    subprocess.Popen = Forked  # type: ignore[assignment,misc]
    for command in wanted:
        begins = time.perf_counter()
        if command.startswith("datadiet ") and "--engine ray" not in command:
            code = Forked(shlex.split(command)).wait()
            problem = f"exit code {code}" if code else ""
        else:
            problem = problem_of(command)
        sys.stdout.write(f"{'FAULT' if problem else 'ok':6}{time.perf_counter() - begins:6.1f} s  {command}\n")
        if problem:
            sys.exit(f"{command}: {problem}")
    sys.stdout.write(f"{len(wanted)} commands\n")
    os.chdir(ROOT)


def first_layers(folder: Path) -> Path:
    """The packaged model without its upper layers."""
    from transformers import AutoModel, AutoTokenizer

    from datadiet.tasks.loading import resolve_model

    source = resolve_model("minilm")
    AutoModel.from_pretrained(source, num_hidden_layers=LAYERS).save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return folder


def examples(*, in_short: bool = False) -> None:
    """The scripts and notebooks of examples/, two at a time."""
    import datasets  # noqa: F401 - what most of them import, once
    import sklearn.metrics  # noqa: F401
    import transformers  # noqa: F401

    import datadiet.jobs.finetune  # noqa: F401
    from datadiet.tasks import loading

    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory() as place:
        if in_short:
            model = first_layers(Path(place, "minilm"))
            loading._packaged_folder = lambda: model
        subprocess.Popen, subprocess.run = started, forked  # type: ignore[assignment,misc]
        waiting = sorted(path for path in (ROOT / "examples").iterdir() if path.suffix in (".py", ".ipynb"))
        running, failed = {}, []
        while waiting or running:
            while waiting and len(running) < JOBS:
                script = waiting.pop(0)
                log = Path(place) / f"{script.stem}.log"
                running[_script(script, log)] = (script, log, time.perf_counter())
            number, status = os.wait()
            script, log, begins = running.pop(number)
            code = os.waitstatus_to_exitcode(status)
            seconds = time.perf_counter() - begins
            sys.stdout.write(f"{'FAULT' if code else 'ok':6}{seconds:6.1f} s  examples/{script.name}\n")
            sys.stdout.flush()
            if code:
                failed.append(script.name)
                sys.stdout.write(log.read_text(errors="replace")[-3000:])
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def _script(script: Path, log: Path) -> int:
    """Start a script or notebook, its output in a log; the number of its process."""

    def work() -> None:
        sys.argv, sys.path[0] = [str(script)], str(script.parent)
        if script.suffix == ".py":
            runpy.run_path(str(script), run_name="__main__")
        else:
            _cells(script)

    with log.open("w") as stream:
        return started_copy(work, stdout=stream, stderr=stream)


def _cells(notebook: Path) -> None:
    """The cells of a notebook, in a shell of IPython; one that fails raises."""
    import nbformat
    from IPython.core.interactiveshell import InteractiveShell

    class Shell(InteractiveShell):
        def enable_gui(self, gui: str | None = None) -> None:
            """Figures are shown in the notebook, not in windows."""

    shell = Shell.instance()
    for cell in nbformat.read(notebook, as_version=4).cells:
        if cell.cell_type == "code":
            shell.run_cell(cell.source).raise_error()


if __name__ == "__main__":
    os.fsync = unwaited
    for part in sys.argv[1:]:
        parts = {"readme": readme, "corpora": corpora, "examples": examples}
        {**parts, "examples-in-short": partial(examples, in_short=True)}[part]()
