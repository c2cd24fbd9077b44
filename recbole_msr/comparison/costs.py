"""What the compared models cost to run, measured one after the other once all of them are trained."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_msr.comparison.jobs import Jobs
from recbole_msr.comparison.results import AGAIN, Collected
from recbole_msr.comparison.settings import CompareSettings
from recbole_msr.data.packed import PackedTable
from recbole_msr.errors import InputError
from recbole_msr.files.yaml import read_yaml
from recbole_msr.jobs.failure import reason_of
from recbole_msr.training.checkpoint import load_weights
from recbole_msr.training.configure import training_config
from recbole_msr.tuning.cost import flops, latency
from recbole_msr.tuning.objective import LATENCY_ROWS

logger = logging.getLogger(__name__)

_FLOPS_ROWS = 256


class DamagedCheckpointError(InputError):
    """The weights of a finished run cannot be read."""


def measure(settings: CompareSettings, jobs: Jobs, train: Any, valid: Any) -> dict[str, dict[str, Any]]:
    """FLOPs and latencies of every entry's first run (of models of one task: summed over the tasks).

    Measured anew by every command, in one process with nothing else of the comparison at work, so that the entries of
    one leaderboard can be compared.

    Args:
        settings, jobs: the comparison.
        train, valid: built splits that all models read.

    Returns:
        label -> {"flops": ..., "latency": ..., "latency_1": ...}; an entry that cannot be measured is left out.

    Raises:
        InputError: a run's best.ckpt is damaged; one that is gone is a number less on the leaderboard.
    """
    rows = PackedTable(valid)
    found: dict[str, dict[str, Any]] = {}
    for entry in settings.entries:
        of = Collected(settings, jobs, entry)
        for seed in of.seeds()[:1]:
            try:
                parts = [_of_run(of.folder(job), train, rows) for job in of.parts(seed)]
            except DamagedCheckpointError:
                raise
            except Exception as error:  # a number less on the leaderboard
                logger.warning("%s: its cost could not be measured: %s", entry.label, reason_of(error))
                continue
            found[entry.label] = {name: _total(parts, name) for name in parts[0]}
    return found


def _of_run(folder: Path, train: Any, rows: PackedTable) -> dict[str, float]:
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

    found: dict[str, float] = {"flops": flops(model, batch(_FLOPS_ROWS))}
    for name, count in LATENCY_ROWS.items():
        found[name] = round(latency(model, batch(count), count), 4)
    return found


def _total(parts: Sequence[Mapping[str, float]], name: str) -> float:
    return sum(part[name] for part in parts)
