"""The data of a search: read, split and packed once a process."""

from __future__ import annotations

from functools import cached_property

from recbole_msr.config.build import reading_data
from recbole_msr.data.packed import PackedTable
from recbole_msr.data.rows_report import log_rows
from recbole_msr.evaluation.validation_metric import check_metric, check_validation
from recbole_msr.tuning.settings import COSTS, SearchSettings
from recbole_msr.tuning.trial_settings import trial_config


class StudyData:
    """The data of all trials: read, split and packed once a process. The test split is not packed, and never read.

    Args:
        settings: the search.

    Attributes:
        report: counts of used and unused rows (`ScenarioDataset.row_report`); None for data without tasks.

    Raises:
        InputError: the data cannot be used, or an objective is no metric.
    """

    def __init__(self, settings: SearchSettings) -> None:
        from recbole.data import create_dataset
        from recbole.utils import get_model

        self.config = trial_config(settings, {})
        with reading_data(self.config):
            dataset = create_dataset(self.config)
            splits = dataset.build()
        log_rows(dataset)
        self.report = dataset.row_report() if hasattr(dataset, "row_report") else None
        self.train_split, self._valid_split = splits[0], splits[1]
        is_multi_task = hasattr(get_model(settings.model), "predict_tasks")
        for name in settings.objectives:
            if name not in COSTS:
                check_metric(name, self.config, self.train_split, is_multi_task)
                task = None if is_multi_task else self.config["main_task"]
                check_validation(name, self.config, self._valid_split, task)

    # Packed when the first trial asks: the process that only starts workers needs no tables.

    @cached_property
    def train(self) -> PackedTable:
        """Return the rows of the training split."""
        return PackedTable.for_run(self.train_split, self.config)

    @cached_property
    def valid(self) -> PackedTable:
        """Return the rows of the validation split."""
        return PackedTable.for_run(self._valid_split, self.config)
