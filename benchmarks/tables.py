"""Fill the tables of docs/benchmarks.md and README.md from benchmarks/results.

    python -m benchmarks.tables                # fill them; seconds
    python -m benchmarks.tables --check        # exit 1 if a document does not show what the results say
    python -m benchmarks.tables --print speed  # show one table

A table stands between `<!-- table:NAME -->` and `<!-- /table -->`; the names are those of `TABLES`. The same
results give the same text, byte for byte. Quality: mean ± sample standard deviation over seeds, in parentheses the mean
difference to full data paired by seed. One method is called better than another only if the 95 % interval of the mean
difference (Student's t over the seeds, paired) excludes 0; else it is said to be not shown. Speed comes from the speed
grid alone: the runs of the quality grid may have shared the machine.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks import corpus_selection, instruction_tuning
from benchmarks.grid import RESULTS
from benchmarks.learning_rate import learning_rate
from benchmarks.report import auto, costs, geometry, gradients, methods, noise, quality, tolerance
from benchmarks.report.markdown import wrapped

ROOT = Path(__file__).parent.parent
DOCUMENTS = (
    "docs/benchmarks.md",
    "docs/rules.md",
    "docs/instruction_tuning.md",
    "docs/choosing.md",
    "docs/corpus.md",
    "README.md",
)
MARKED = re.compile(r"(<!-- table:([\w-]+) -->\n).*?(<!-- /table -->)", re.DOTALL)
OPENED = re.compile(r"<!-- table:")
TABLES: dict[str, Callable[[Path], str]] = {
    "quality-atis": quality.quality_atis,
    "quality-shares": quality.quality_shares,
    "speed": costs.speed,
    "overhead": costs.overhead,
    "recorder": costs.recorder,
    "scoring": costs.scoring,
    "selectors": costs.selectors,
    "plans": costs.plans,
    "training_scale": costs.training_scale,
    "corpus_scale": costs.corpus_scale,
    "geometry": geometry.geometry,
    "gradients": gradients.gradients,
    "next_tokens": costs.next_tokens,
    "token_savings": costs.token_savings,
    "memory": costs.memory,
    "imports": costs.imports,
    "tolerance": tolerance.tolerance,
    "noise-guard": noise.noise_guard,
    "learning-rate": learning_rate,
    "noise-quality": noise.noise_quality,
    "methods": methods.head_to_head,
    "methods-stress": methods.stress,
    "auto": auto.rules,
    "auto-unseen": auto.unseen,
    "auto-later": auto.later,
    "auto-large": auto.large,
    "auto-races": auto.races,
    "auto-costs": auto.costs,
    "auto-pairs": auto.pairs,
    "comparing": costs.comparing,
    "report": costs.report,
    "plain-script": costs.plain_script,
    "instruction-tuning": instruction_tuning.report,
    "instruction-glance": instruction_tuning.overview,
    "corpus-selection": corpus_selection.report,
    "corpus-glance": corpus_selection.overview,
    "corpus-costs": corpus_selection.costs,
    "readme": quality.readme,
}


def fill(text: str, results: Path) -> str:
    """A document with its tables filled.

    Raises:
        ValueError: If a marker has an unknown name or is not closed.
    """
    names = [name for _, name, _ in MARKED.findall(text)]
    if unknown := sorted(set(names) - TABLES.keys()):
        raise ValueError(f"unknown table {', '.join(unknown)}; allowed: {', '.join(TABLES)}")
    if len(names) != len(OPENED.findall(text)):
        raise ValueError("a table is opened and not closed by <!-- /table -->")
    return MARKED.sub(partial(_filled, results), text)


def _filled(results: Path, found: re.Match[str]) -> str:
    # blank lines: without them Markdown takes the table for a part of the comment
    return f"{found[1]}\n{wrapped(TABLES[found[2]](results))}\n\n{found[3]}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if a document is out of date")
    shown = (*TABLES, "all")
    parser.add_argument("--print", dest="shown", choices=shown, help="show one table, or all; change nothing")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--root", type=Path, default=ROOT, help="the folder that holds the documents")
    options = parser.parse_args(arguments)
    if options.shown:
        wanted = TABLES if options.shown == "all" else [options.shown]
        print("\n\n".join(TABLES[name](options.results) for name in wanted))
        return
    stale = []
    for document in (options.root / name for name in DOCUMENTS):
        if not document.exists():
            print(f"{document.name}: not there, left out")
            continue
        text = document.read_text(encoding="utf-8")
        try:
            filled = fill(text, options.results)
        except ValueError as error:
            sys.exit(f"{document.name}: {error}")
        if filled != text:
            stale.append(document.name)
            if not options.check:
                document.write_text(filled, encoding="utf-8")
    print(f"{'out of date' if options.check else 'changed'}: {', '.join(stale) or 'nothing'}")
    if options.check and stale:
        sys.exit(1)


if __name__ == "__main__":
    main()
