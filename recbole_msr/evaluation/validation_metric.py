"""Check the validation metric before the first epoch is spent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recbole_msr.errors import InputError, nearest
from recbole_msr.evaluation.cells import of_constant, of_lists_without_hits
from recbole_msr.evaluation.metrics import (
    METRICS,
    CellType,
    cannot_choose,
    find_metric,
    metric_keys,
    metric_name,
    mixes_units,
)
from recbole_msr.evaluation.ranking_mode import list_metrics, metric_names, ranks
from recbole_msr.evaluation.segments import segment_names
from recbole_msr.schema import is_conditional


def check_metric(wanted: Any, config: Any, dataset: Any, several_tasks: bool) -> None:
    """Refuse a validation metric that no epoch will have, before the first one is spent.

    Args:
        wanted: its name, for instance `auc`, `auc/macro` or `logloss/click`.
        config: of the run.
        dataset: a split as a built dataset.
        several_tasks: whether the model predicts all tasks, or the main task alone.

    Raises:
        InputError: there is no such metric, and the message lists those there are; or it cannot choose an epoch.
    """
    known = metric_names(config)
    schema = getattr(dataset, "schema", None)
    main: str = config["LABEL_FIELD"] if schema is None else schema.main_task
    types: dict[str, CellType] = {main: "binary"} if schema is None else {**schema.predicted_types}
    types = types if several_tasks else {main: types[main]}
    names = [*getattr(dataset, "scenario_names", ["all"]), *segment_names(config["segments"])]
    if ranks(config):
        types = {task: "ranking" for task in types if not is_conditional(task)}
        known = metric_keys(names, types, main, list_metrics(config))
    else:
        weighted = [] if schema is None else [task for task in schema.weighted_types if task in types]
        known += metric_keys(names, types, main, weighted=weighted)
    if find_metric(str(wanted), known) is None:
        _refuse_mixed_units(str(wanted), types)
    refusal = cannot_choose(str(wanted))
    if refusal is not None:
        raise InputError(f"valid_metric {refusal}")
    known = [key for key in known if cannot_choose(key) is None]
    if find_metric(str(wanted), known) is None:
        listing = ", ".join(dict.fromkeys(known))
        raise InputError(
            f"there is no valid_metric '{wanted}'{nearest(metric_name(str(wanted)), known) or '.'} Known: {listing}"
        )


def _refuse_mixed_units(wanted: str, types: Mapping[str, CellType]) -> None:
    """Refuse a value over several tasks of a metric that is in the unit of each.

    Raises:
        InputError: it is one; the message names the tasks, and what would do.
    """
    metric, *names = metric_name(wanted).split("/")
    if metric not in METRICS or names not in (["macro"], ["worst"]) or not mixes_units(metric, types.values()):
        return
    tasks = [task for task, kind in types.items() if kind in METRICS[metric].types]
    raise InputError(
        f"valid_metric '{wanted}' would mix the units of {', '.join(tasks)}: choose by one task, such as "
        f"{metric}/{tasks[0]}/macro, or by xauc/{names[0]}, which has no unit"
    )


def check_validation(wanted: Any, config: Any, split: Any, task: str | None = None, lists: Any = None) -> None:
    """Refuse a validation metric that the rows of the validation split leave undefined, before an epoch is spent.

    Args:
        wanted: as for `check_metric`.
        config: of the run.
        split: the validation split, as a built dataset.
        task: the one that is predicted; None for all of them.
        lists: the ranked lists of the split (`data.ranked_lists`), where the configuration asks for these.

    Raises:
        InputError: it has no value, whatever is predicted; the message names the cells and why.
    """
    metric = str(wanted).lower().split("/")[0]
    if metric not in METRICS:
        return
    found = of_constant(config, split, task) if lists is None else of_lists_without_hits(config, split, lists, task)
    if metric not in found.applicable:  # RecBole's of the same name
        return
    if find_metric(str(wanted), found.flat()) is not None:
        return
    cells = [f"scenario '{scenario}', task '{task}': {reason}" for scenario, task, reason in found.undefined]
    cells += [
        f"segment '{segment}', task '{of_task}': {reason}"
        for segment, of_task, reason in found.undefined_segments
        if f"/{segment}/" in str(wanted)
    ]
    for of_task, cell in found.pooled.items():
        if cell.undefined is not None and lists is None:
            classes = f"one class ({cell.positives} of {cell.rows} rows are positive)"
            cells.append(f"task '{of_task}' over all rows: {classes if cell.type == 'binary' else cell.undefined}")
    raise InputError(
        f"valid_metric '{wanted}' has no value on the validation split of '{config['dataset']}', whatever is predicted"
        f" ({'; '.join(cells) or 'no user has both classes'}): choose another valid_metric, or give that "
        "split more rows (eval_args)"
    )
