"""The cost of running the compared models, measured one after the other once all of them are trained."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_msr.comparison.jobs import Jobs
from recbole_msr.comparison.results import EntryResults
from recbole_msr.comparison.settings import CompareSettings
from recbole_msr.data.packed import PackedTable
from recbole_msr.errors import InputError
from recbole_msr.files.yaml import read_yaml
from recbole_msr.jobs.failure import reason_of
from recbole_msr.jobs.model_cost import LATENCY_ROWS, flops, latency
from recbole_msr.jobs.shared_rows import AGAIN
from recbole_msr.training.checkpoint import load_weights
from recbole_msr.training.configure import training_config

logger = logging.getLogger(__name__)

_FLOPS_ROWS = 256


class DamagedCheckpointError(InputError):
    """The weights of a finished run cannot be read."""


def measure(settings: CompareSettings, jobs: Jobs, train: Any, valid: Any) -> dict[str, dict[str, Any]]:
    """Measure FLOPs and latencies of every entry's first run; of single-task models, the sum over the tasks.

    Every command measures anew, in one process while no other job of the comparison runs, so that the entries of one
    leaderboard can be compared.

    Args:
        settings: the comparison.
        jobs: its jobs.
        train: training split, which models are built from.
        valid: validation split, whose rows are scored.

    Returns:
        label -> {"flops": per row, "latency": ms, "latency_1": ms}; without entries that cannot be measured.

    Raises:
        InputError: a run's best.ckpt is damaged. A missing one only leaves a gap in the leaderboard.
    """
    rows = PackedTable(valid)
    costs: dict[str, dict[str, Any]] = {}
    for entry in settings.entries:
        results = EntryResults(settings, jobs, entry)
        for seed in results.seeds()[:1]:
            try:
                parts = [_measure_run(results.folder(job), train, rows) for job in results.parts(seed)]
            except DamagedCheckpointError:
                raise
            except Exception as error:  # it leaves a gap in the leaderboard
                logger.warning("%s: its cost could not be measured: %s", entry.label, reason_of(error))
                continue
            costs[entry.label] = {name: _total(parts, name) for name in parts[0]}
    return costs


def _measure_run(folder: Path, train: Any, rows: PackedTable) -> dict[str, float]:
    from recbole.utils import get_model

    settings = read_yaml(folder / "config.yaml") | {"strict": False}
    config = training_config(settings.pop("model"), settings.pop("dataset"), settings)
    model = get_model(config["model"])(config, train).to(config["device"])
    checkpoint = folder / "best.ckpt"
    try:
        load_weights(model, checkpoint, config["device"])
    except InputError as error:
        if not checkpoint.exists():
            raise
        raise DamagedCheckpointError(f"{error}; {AGAIN}") from error

    def batch(count: int) -> Any:
        return rows.batch(slice(0, min(count, len(rows)))).to(config["device"])

    cost: dict[str, float] = {"flops": flops(model, batch(_FLOPS_ROWS))}
    for name, count in LATENCY_ROWS.items():
        cost[name] = round(latency(model, batch(count), count), 4)
    return cost


def _total(parts: Sequence[Mapping[str, float]], name: str) -> float:
    return sum(part[name] for part in parts)
