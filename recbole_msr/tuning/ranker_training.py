"""A training of a trial of one of RecBole's ranking models (BPR, LightGCN, SASRec, ...), which learn from positives."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from recbole_msr.data.positives import positives_of, ranks_items
from recbole_msr.errors import InputError
from recbole_msr.jobs.model_cost import parameters
from recbole_msr.runs.item_rankers import ItemRanker
from recbole_msr.training.epoch_loggers import EpochLogger
from recbole_msr.tuning.fidelity import Rung
from recbole_msr.tuning.settings import COSTS, SearchSettings
from recbole_msr.tuning.study_data import StudyData
from recbole_msr.tuning.trial_folder import BEST
from recbole_msr.tuning.trial_parts import Part
from recbole_msr.tuning.trial_settings import trial_config
from recbole_msr.tuning.trial_training import TrialTraining, Watch


class RankerTraining(TrialTraining):
    """One training of such a trial: under RecBole's own trainer, on the positives of its task.

    It takes the arguments of `TrialTraining`, and is trained from its beginning where an earlier trial was interrupted.
    """

    def _build(self) -> None:
        from recbole.utils import get_model, init_seed

        init_seed(self._config["seed"], self._config["reproducibility"])
        rows = None if self._rung is None else self._data.share_rows(self._rung.share)
        self._positives = positives_of(self._data.train_split, self._config, rows)
        model = get_model(self._model_name)(self._config, self._positives).to(self._config["device"])
        self._model: torch.nn.Module = model

    def _measure(self) -> dict[str, float]:
        """Count the parameters; the other costs are of models that predict rows."""
        others = [name for name in self._settings.objectives if name in COSTS and name != "parameters"]
        if others:
            raise InputError(
                f"the objective {others[0]} is measured of models that predict rows, and {self._model_name} ranks "
                "items: leave the objective or the model out"
            )
        return {"parameters": parameters(self._model)}

    def _fit(
        self,
        callbacks: list[pl.Callback],
        after_epoch: Callable[[int, float], None],
        state: Mapping[str, Any] | None,
        on_resume: Callable[[], None],
    ) -> None:
        watches = [callback for callback in callbacks if isinstance(callback, Watch)]
        loggers = [callback for callback in callbacks if isinstance(callback, EpochLogger)]

        def before_batch() -> None:
            for watch in watches:
                watch.on_train_batch_start()

        def validated(epoch: int, score: float) -> None:
            self._kept = ranker.epochs
            self.keep_result()
            for logger in loggers:
                logger.send(ranker.epochs)
            after_epoch(epoch, score)

        splits = (self._data.train_split, self._data.valid_split)
        with tempfile.TemporaryDirectory() as temporary:  # RecBole's trainer makes files that no trial needs
            ranker = ItemRanker(
                self._config,
                self._model,
                self._positives,
                splits,
                self._settings_of_run,
                Path(temporary),
                None if self._folder is None else self._folder / BEST,
                validated,
                before_batch,
            )
            try:
                ranker.train()
            finally:
                self._kept = ranker.epochs


def make_training(
    settings: SearchSettings,
    data: StudyData,
    sampled: dict[str, Any],
    part: Part,
    folder: Path | None = None,
    rung: Rung | None = None,
    precision: str | None = None,
) -> TrialTraining:
    """Return a training of a trial, of the kind that its model needs; the arguments are those of `TrialTraining`."""
    kind = RankerTraining if ranks_items(trial_config(settings, {**sampled, **part.keys})) else TrialTraining
    return kind(settings, data, sampled, part, folder, rung, precision)
