"""Tables from the results of the runs of recipes.sh, written into docs/study.md.

    python benchmarks/study/results.py [--part NAME …] [--runs runs/study] [--docs docs]

Every table of the page, and the headline in the README, stands between two marks with its name and is written there;
`docs/study.csv` has each run by itself. figures.py draws them. All runs of a part are made on one machine, since
another processor sums floats in another order; a part that is not named stays as it is.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Collection, Mapping
from pathlib import Path

from systems import (
    BESIDES,
    FIGURES,
    FURTHER,
    HALF,
    METHODS,
    PARTS,
    POLICIES,
    SETTINGS,
    WHOLE,
    WHOLE_ACROSS,
    WHOLE_BESIDES,
    WHOLE_METHODS,
    Comparisons,
    System,
    find_systems,
)
from tables import against_table, claims_table, kinship_table, others_table, plain_table


def write_csv(path: Path, systems: Mapping[str, System], parts: Collection[str]) -> None:
    """Write a row for each run of these parts; rows of other parts stay."""
    heads = ["part", "system", "run", *(figure.title for figure in FIGURES)]
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in list(csv.reader(file))[1:] if row[0] not in parts]
    for part in parts:
        for name in (name for name in PARTS[part] if name in systems):
            for each in systems[name].group.values():
                values = [each.settings[figure.setting][figure.measure] for figure in FIGURES]
                rows.append([part, name, each.model, *(f"{value:.6f}" for value in values)])
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([heads, *sorted(rows)])


def fill(page: Path, tables: Mapping[str, str]) -> None:
    """Put the tables between their marks, `<!-- NAME -->` and `<!-- /NAME -->`, as far as the page has them."""
    text = page.read_text(encoding="utf-8")
    for name, found in tables.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        if begin in text:
            head, rest = text.split(begin, 1)
            text = head + begin + found + "\n" + rest[rest.index(end) :]
    page.write_text(text, encoding="utf-8")


def arguments(description: str | None) -> argparse.Namespace:
    """Command-line arguments of this script and of figures.py."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, action="append")
    parser.add_argument("--runs", type=Path, default=Path("runs/study"))
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    options = parser.parse_args()
    options.part = options.part or list(PARTS)
    return options


def main() -> None:
    options = arguments(__doc__)
    systems = find_systems(options.runs)
    comparisons = Comparisons(systems)
    tables: dict[str, str] = {}
    if "policies" in options.part:
        tables["policies"] = plain_table(systems, {name: name for name in POLICIES})
        tables["claims"] = claims_table(systems, comparisons, HALF)
        tables["kinship"] = kinship_table(systems, POLICIES)
    if "methods" in options.part:
        tables["methods"] = against_table(systems, comparisons, METHODS, "hybrid-0.5")
    if "further" in options.part:
        tables["further"] = against_table(systems, comparisons, FURTHER, "hybrid-0.5")
        tables["others"] = others_table(options.runs, BESIDES, "untrained")
    if "whole" in options.part:
        tables["whole"] = plain_table(systems, {"untrained": "untrained-12-layers"} | WHOLE)
        tables["whole-claims"] = claims_table(systems, comparisons, WHOLE)
        tables["whole-methods"] = against_table(systems, comparisons, WHOLE_METHODS, WHOLE["hybrid"])
        tables["whole-across"] = against_table(systems, comparisons, WHOLE_ACROSS, WHOLE["cross"])
        tables["whole-others"] = others_table(options.runs, WHOLE_BESIDES, WHOLE_BESIDES[0])
        tables["whole-kinship"] = kinship_table(systems, WHOLE_BESIDES)
    if "settings" in options.part:
        tables["settings"] = against_table(systems, comparisons, SETTINGS, WHOLE["hybrid"])
    for name, found in tables.items():
        print(f"\n{name}\n\n{found}")
    for page in (options.docs / "study.md", options.docs.parent / "README.md"):
        fill(page, tables)
    write_csv(options.docs / "study.csv", systems, options.part)


if __name__ == "__main__":
    main()
