"""What a language model's knowledge brings: a backbone with it, without it, and with controls in its place.

    python -m benchmarks.llm4msr --work=DIR [--only ml-100k ml-100k-cold ml-1m ml-1m-cold amazon frappe]
        [--backbone SharedBottom] [--levels] [--rows 200000] [--seeds 3]

Method. `recbole_msr.compare` on one thread: all entries have the same rows, split, settings and seeds, at most 30
epochs, and stop after 4 without a gain. The store is built once, of the training rows, by the default encoder with the
template `profile`: the vectors of users are means of those of their items. Entries:

- none: the backbone;
- features: the backbone with the users' and items' vectors as features;
- features, match: and with the dot product of the two (`knowledge_match`);
- random, permuted: the same with vectors of the same spectrum, or with those of other users and items;
- of cold items also `none` and `features, match` with `unknown_share` of the item's id;
- with `--levels` also LLM4MSR's levels: user, both (user and scenario), and user beside features and match.

`ml-100k` and `ml-1m` have their presets' rows, ml-1m at most `--rows` of whole users; `-cold` holds a tenth of the
items out for validation and a tenth for the test. amazon (40,000 rows, three domains, titles) and frappe (20,000 rows;
names, categories and short descriptions of the apps) are those of `benchmarks.outside_data`.

Differences are to the backbone, of the macro AUC, over rows and seeds; p is corrected by Holm. Prints tables in
Markdown; `leaderboard.md` of each folder has the same by scenario, task and segment. Finished trainings are kept; the
same command resumes.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import torch

import recbole_msr
from benchmarks.leaderboard import SETTINGS, table
from benchmarks.outside_data import SOURCE, prepare, present
from benchmarks.text_vectors import add_titles
from recbole_msr.runs.knowledge_commands import embed

ROWS = {"amazon": 40_000, "frappe": 20_000}
TRAINING = {"epochs": 30, "stopping_step": 3}
SEGMENTS = {"user_rows": [1, 6, 21], "item_rows": [1, 6, 21]}
SHARES = (0.1, 0.3)
"""Of `unknown_share`."""
EXPERIMENTS = ("ml-100k", "ml-100k-cold", "ml-1m", "ml-1m-cold", "amazon", "frappe")


def data(name: str, folder: Path, source: Path, rows: int) -> tuple[str, dict[str, Any]]:
    """Return the dataset of an experiment, whose items have titles, and its configuration."""
    plain = name.removesuffix("-cold")
    dataset, config = prepare(plain, folder, None if plain == "ml-100k" else ROWS.get(plain, rows), source)
    if plain in ROWS:
        add_titles(plain, folder / dataset, source)
    config |= SETTINGS | TRAINING | {"segments": SEGMENTS}
    if plain != name:
        config["eval_args"] |= {"group_by": "cold_item"}
    return dataset, config


def entries(backbone: str, knowledge: str, is_cold: bool, has_levels: bool) -> dict[str, dict[str, Any]]:
    """Return the entries of the comparison, the backbone alone first."""
    features = {"model": backbone, "knowledge": knowledge, "knowledge_features": ["user", "item"]}
    matched = features | {"knowledge_match": "dot"}
    made: dict[str, dict[str, Any]] = {"none": {"model": backbone}, "features": features, "features, match": matched}
    made |= {control: matched | {"knowledge_control": control} for control in ("random", "permuted")}
    if is_cold:
        for share in SHARES:
            made |= {
                f"{label}, unknown {share}": made[label] | {"unknown_share": {"item_id": share}}
                for label in ("none", "features, match")
            }
    if has_levels:
        level = {"model": "LLM4MSR", "backbone": backbone, "knowledge": knowledge}
        made["user level"] = level | {"knowledge_level": "user"}
        made["both levels"] = level | {"knowledge_level": "both"}
        made["user level, features, match"] = matched | made["user level"]
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="a folder for data, knowledge and comparisons")
    parser.add_argument("--source", type=Path, default=SOURCE, help="folder of the raw data")
    parser.add_argument("--only", nargs="+", choices=EXPERIMENTS, default=list(EXPERIMENTS))
    parser.add_argument("--backbone", default="SharedBottom")
    parser.add_argument("--levels", action="store_true", help="also LLM4MSR's levels")
    parser.add_argument("--rows", type=int, default=200_000, help="rows of ml-1m, of whole users, at most")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    there = set(present(dict.fromkeys(name.removesuffix("-cold") for name in given.only), given.source))
    for name in given.only:
        if name.removesuffix("-cold") not in there:
            continue
        dataset, config = data(name, given.work / "data", given.source, given.rows)
        config["knowledge_dir"] = str(given.work / "knowledge")
        for line in embed(dataset, [], config | {"template": "profile", "name": name}):
            print(line, flush=True)
        compared = recbole_msr.compare(
            entries(given.backbone, name, name.endswith("-cold"), given.levels),
            dataset,
            config=config,
            seeds=given.seeds,
            output=given.work / f"{name}-{given.backbone}{'-levels' if given.levels else ''}",
            progress=False,
        )
        print(f"\n{name}, {given.backbone}, {given.seeds} seeds\n")
        print(table(compared, [f"auc/{config['main_task']}"]))
        print("\n".join(compared.verdict), flush=True)


if __name__ == "__main__":
    main()
