"""The data of a search: read, split and packed once a process."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch

from recbole_msr.config.build import reading_data
from recbole_msr.data.cache import fingerprint
from recbole_msr.data.dataset import ScenarioDataset
from recbole_msr.data.packed import PackedTable
from recbole_msr.data.positives import ranks_items
from recbole_msr.data.ranked_lists import ranked_lists
from recbole_msr.data.row_share import share_rows
from recbole_msr.data.rows_report import log_rows
from recbole_msr.evaluation.validation_metric import check_metric, check_validation
from recbole_msr.schema import SCENARIO_FIELD, Schema
from recbole_msr.tuning.settings import COSTS, SearchSettings
from recbole_msr.tuning.trial_settings import trial_config


class Tables:
    """The training and the validation rows of one kind of model, packed when the first training asks for them.

    Args:
        train_split: the training split, from which models are built.
        valid_split: the validation split.
        config: RecBole's configuration, for the tables' device and their name.
    """

    def __init__(self, train_split: Any, valid_split: Any, config: Any) -> None:
        self.train_split, self.valid_split, self._config = train_split, valid_split, config
        self._shares: dict[float, PackedTable] = {}
        self._share_rows: dict[float, torch.Tensor] = {}

    @cached_property
    def train(self) -> PackedTable:
        """Return the rows of the training split."""
        return PackedTable.for_run(self.train_split, self._config)

    @cached_property
    def valid(self) -> PackedTable:
        """Return the rows of the validation split."""
        return PackedTable.for_run(self.valid_split, self._config)

    def share(self, share: float) -> PackedTable:
        """Return a share of the training rows, packed."""
        if share not in self._shares:
            self._shares[share] = self.train.part(self.share_rows(share))
        return self._shares[share]

    def share_rows(self, share: float) -> torch.Tensor:
        """Return the numbers of a share's rows: of whole users, the same in every process (`data.row_share`)."""
        if share not in self._share_rows:
            schema = Schema.from_config(self._config)
            labels = schema.label_fields if schema is not None else []
            user, seed = self._config["USER_ID_FIELD"], int(self._config["data_seed"])
            numbers = [task.label_field for task in schema.tasks if task.type == "number"] if schema is not None else []
            self._share_rows[share] = share_rows(self.train, share, seed, user, SCENARIO_FIELD, labels, numbers)
        return self._share_rows[share]

    @cached_property
    def name(self) -> str:
        """Return a name for the data and how they are filtered, labelled and split."""
        return fingerprint(self._config, self._config["data_path"], self._config["dataset"])[:16]


class StudyData(Tables):
    """The data of all trials: read, split and packed once a process. The test split is not packed, and never read.

    Its own tables are those of the search's model; in a search over several models those of a multi-task model, which
    has the rows of all tasks. `of` gives those of any other training.

    Args:
        settings: the search.

    Attributes:
        config: RecBole's configuration of the search, without what trials sample.
        report: counts of used and unused rows (`ScenarioDataset.row_report`); None for data without tasks.

    Raises:
        InputError: the data cannot be used, or an objective is no metric.
    """

    def __init__(self, settings: SearchSettings) -> None:
        from recbole.data import create_dataset

        self.config = trial_config(settings, {})
        with reading_data(self.config):
            dataset = ScenarioDataset(self.config) if ranks_items(self.config) else create_dataset(self.config)
            splits = dataset.build()
        log_rows(dataset)
        self.report = dataset.row_report() if hasattr(dataset, "row_report") else None
        super().__init__(splits[0], splits[1], self.config)
        self._is_multi_task = hasattr(self.config.model_class, "predict_tasks")
        self._of_task: dict[str, Tables] = {}
        for name in settings.objectives:
            if name not in COSTS:
                check_metric(name, self.config, self.train_split, self._is_multi_task)
                task = None if self._is_multi_task else self.config["main_task"]
                lists = ranked_lists(self.valid_split, self.config)
                check_validation(name, self.config, self.valid_split, task, lists)

    def of(self, config: Any) -> Tables:
        """Return the tables of a training: for a single-task model in a search over several, those of its task.

        Args:
            config: RecBole's configuration of the training.
        """
        if not self._is_multi_task or hasattr(config.model_class, "predict_tasks"):
            return self
        task = str(config["main_task"])
        if task not in self._of_task:
            train, valid = self.train_split, self.valid_split
            self._of_task[task] = Tables(train.of_single_task(config), valid.of_single_task(config), self.config)
        return self._of_task[task]
