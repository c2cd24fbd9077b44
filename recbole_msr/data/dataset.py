"""A RecBole dataset that knows scenarios and tasks."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from recbole.data.dataset import Dataset
from recbole.data.interaction import Interaction
from recbole.utils import FeatureSource, FeatureType

from recbole_msr.data import cache
from recbole_msr.data.atomic import read_header
from recbole_msr.data.cell_counts import CellCounts
from recbole_msr.data.columnar import is_categorical
from recbole_msr.data.conversions import check_conversions
from recbole_msr.data.counted import CountedDataset
from recbole_msr.data.history import (
    HISTORY_FIELD,
    HistoryRows,
    HistorySettings,
    check_fields,
    check_given,
    checked_times,
)
from recbole_msr.data.label_classes import check_trained, class_labels, natural_order
from recbole_msr.data.label_scale import label_scales
from recbole_msr.data.negatives import LABEL_OF_POSITIVES, NegativeSettings, check_evaluated, reads_positives
from recbole_msr.data.occurrence import column_of
from recbole_msr.data.one_scenario import alone, only_scenario
from recbole_msr.data.row_weights import check_weights, scale_weights
from recbole_msr.data.rows import Packed, PackedRows, SelectedRows, pack_dataset
from recbole_msr.data.rows_report import revealing_features, sample_rows, warn
from recbole_msr.data.split_rows import HELD_OUT, held_out_parts
from recbole_msr.data.table_rows import TableRows, make_table_rows
from recbole_msr.data.table_rows import check_fields as check_table_rows
from recbole_msr.data.tables.placed import write_interactions
from recbole_msr.data.top_scenarios import top_scenarios
from recbole_msr.data.vocabulary import TokenIds
from recbole_msr.errors import InputError, nearest
from recbole_msr.evaluation.ranking_mode import ranks
from recbole_msr.schema import (
    SCENARIO_FIELD,
    UNKNOWN_SCENARIO,
    Schema,
    Task,
    TaskType,
    as_token,
    label_field,
)
from recbole_msr.threads import process_rank

SPLITS = ("train", "valid", "test")
_ONE_LABEL: dict[TaskType, tuple[str, str]] = {
    "binary": ("only the label {:g}", "AUC is undefined"),
    "number": ("one and the same number", "XAUC is undefined"),
    "ordered": ("one class", "XAUC is undefined"),
    "classes": ("one class", "accuracy says nothing"),
}
"""What a scenario has where its labels are all the same, and what follows; by the type of the task."""
_LARGE_NUMBER = 20.0
"""Of a numerical feature: from there on it is told to normalise it."""


class ScenarioDataset(CountedDataset):
    """RecBole's `Dataset` with a scenario column, a label column a task, and splits that depend on `data_seed` alone.

    It reads the same atomic files with the same filters and id maps as RecBole. From the raw values of the declared
    fields it derives the token field "scenario" (ids 1..M in the declared order; beside the field it comes from, so
    in the user table for a user field) and one float column "label_<task>" a task (0, 1, or -1 for a missing label; a
    number, or -inf for a missing one; the number of a class from 0, or -1).
    The label's source fields are dropped: a model never sees them.

    The split data are kept in a cache (see `recbole_msr.data.cache`), so that the next start skips all of this.

    With `only_scenario: NAME`, `build` leaves of every split the rows of this scenario, which is then the only one
    there is, with id 1. Split, vocabularies and scaling of numbers are those of all rows.

    Attributes:
        schema: the declared scenario and tasks.
        scenario_names: names of the M scenarios; name m has id m + 1. Where the most frequent values are the scenarios
            (`top`), they are the field's values until `build` has counted.
        table_rows: the rows of embedding tables, of the fields of `min_count` and `hash_buckets` (set by `build`).
        top_scenarios: the values that are scenarios by `top`, in their order (set by `build`); None without.
        scenario_shares: each scenario's share of the training rows (set by `build`), M floats.
        split_sizes: rows of train, valid and test (set by `build`).
        number_scale: of every numerical feature the mean (which stands for a missing value) and the (x - low) / width
            that normalisation did.
        history: the training rows that histories are made of (set by `build`); None where no `history` is declared.
        label_classes: of each task of classes their names, in the order of their numbers.
        label_scale: how each task of numbers is brought to one scale (set by `build`, see `data.label_scale`).
        all_scenarios: of a split with `only_scenario`, the same split with the rows of every scenario; else None.
        split_name: of a split, "train", "valid" or "test".
        earlier: of a split, the rows of the splits before it, with every label.
        every_label: of a split, the same split with the rows that lack the main task's label.
    """

    schema: Schema
    scenario_names: list[str]
    scenario_shares: list[float]
    split_sizes: list[int]
    number_scale: dict[str, dict[str, float]]
    top_scenarios: list[str] | None = None
    table_rows: Mapping[str, TableRows] = {}
    all_scenarios: ScenarioDataset | None = None
    split_name: str | None = None
    earlier: PackedRows | None = None
    every_label: ScenarioDataset | None = None
    cells: dict[str, Any]
    history: HistoryRows | None = None
    _untimed = 0
    file_size_list: list[int]
    _read_times: np.ndarray | None = None
    _read_rows: np.ndarray | None = None

    def __init__(self, config: Any) -> None:
        schema = Schema.from_config(config)
        if schema is None:
            raise InputError("a multi-scenario dataset needs tasks, e.g. tasks: {click: {field: rating, at_least: 4}}")
        self.schema = schema
        self.history_settings = HistorySettings.from_config(config)
        self._samples_negatives = NegativeSettings.from_config(config) is not None
        self._restored = False
        self._all_views: list[ScenarioDataset] | None = None
        self._turn: Any = None
        self.number_scale = {}
        self.label_scale: dict[str, dict[str, Any]] = {}
        self.label_classes: dict[str, list[str]] = {}
        if config["only_scenario"] is not None and schema.scenario.field is None:
            raise InputError(
                f"only_scenario: '{config['only_scenario']}' is to be one of several scenarios, but none are declared; "
                "add e.g. scenario: {field: age, bins: [25, 35]}, or leave only_scenario out"
            )
        try:
            with torch.inference_mode(False):  # tables made in it could not be trained on
                super().__init__(config)
            if schema.scenario.top is None:
                self._only = only_scenario(self.config, self.scenario_names)
            elif self._restored:
                self._resolve_top()
        except BaseException as error:
            self._end_turn()
            if type(error) is InputError and self._short_rows:  # an empty label, say, may be a line that was cut off
                raise InputError(f"{error} ({'; '.join(self._short_rows)})") from error
            raise

    def _from_scratch(self) -> None:
        self._get_preset()
        self._get_field_from_config()
        if not os.path.isdir(self.dataset_path):
            raise InputError(
                f"no dataset folder {self.dataset_path}: dataset '{self.dataset_name}' is looked for below data_path "
                f"(--data_path=DIR, where DIR/{self.dataset_name}/{self.dataset_name}.inter exists)"
            )
        self._cache_entry = cache.entry(self.config, self.dataset_path, self.dataset_name)
        if self._cache_entry is not None:
            self._restored = cache.restore(self, self._cache_entry)
            if not self._restored:
                # Another process may be making the same: it is waited for, instead of doing the work twice.
                self._turn = cache.build_lock(self._cache_entry)
                self._restored = cache.restore(self, self._cache_entry)
            if self._restored:
                self._end_turn()
                return
        self._read()

    def _read(self) -> None:
        """Read the files, and prepare what they hold for the split."""
        write_interactions(self.dataset_path, self.dataset_name, self._digests)
        super()._from_scratch()

    @property
    def _digests(self) -> Path:
        """The folder in which the digests of unchanged files are remembered."""
        return Path(cache.cache_root(self.config["cache_dir"]), ".digests")

    def _end_turn(self) -> None:
        if self._turn is not None:
            self._turn.release()
            self._turn = None

    @classmethod
    def from_vocabulary(cls, config: Any, folder: Path) -> ScenarioDataset:
        """Return a dataset with the vocabularies and the user and item tables that a run kept, and no interactions."""
        dataset = cls.__new__(cls)
        schema = Schema.from_config(config)
        assert schema is not None
        dataset.schema, dataset.config, dataset.dataset_name = schema, config, config["dataset"]
        dataset.history_settings = HistorySettings.from_config(config)
        dataset.logger = logging.getLogger()
        dataset._get_preset()
        dataset._get_field_from_config()
        with torch.inference_mode(False):
            cache.read_state(dataset, folder)
        if schema.scenario.top is not None:
            names = [str(as_token(config["only_scenario"]))] if config["only_scenario"] is not None else None
            dataset._resolve_top(names)
        if config["only_scenario"] is not None:
            dataset.schema = alone(dataset.schema, dataset.scenario_names[0])
        return dataset

    # Deriving scenario and labels, between filtering (which sees raw values) and the remapping of ids.

    def _reset_index(self) -> None:
        check_weights(self.schema.tasks, self.inter_feat, self._place)
        index = self.inter_feat.index
        if not index.equals(pd.RangeIndex(len(index))):  # rows were left out: errors name them as the file has them
            self._read_rows = index.to_numpy()
        super()._reset_index()

    def _load_data(self, token: str, dataset_path: str) -> None:
        super()._load_data(token, dataset_path)
        self._add_label_of_positives()
        wanted = {f"task '{task.name}'": task.field for task in self.schema.tasks}
        wanted |= {f"task '{task.name}': weight": task.weight for task in self.schema.tasks if task.weight is not None}
        if self.schema.scenario.field is not None:
            wanted["scenario"] = self.schema.scenario.field
        for what, field in wanted.items():
            if field not in self.field2type:
                raise InputError(f"{what}: {self._explain_missing(field)}")
        for task in self.schema.tasks:
            source = self.field2source[task.field]
            if source != FeatureSource.INTERACTION:
                where = getattr(source, "value", source)
                raise InputError(
                    f"task '{task.name}': field '{task.field}' is in the {where} file, but a label belongs to "
                    f"an interaction and must be in {token}.inter"
                )
            if task.weight is not None:
                self._check_weight_field(task.name, task.weight)
            if task.field in (self.config["numerical_features"] or []):
                raise InputError(
                    f"task '{task.name}' is read from '{task.field}', which numerical_features also gives to the model "
                    "as an input: the label would leak. Remove it from numerical_features."
                )
        for field in self.config["numerical_features"] or []:
            if field not in self.field2type:
                raise InputError(f"numerical_features: {self._explain_missing(field)}")
            if self.field2type[field] not in (FeatureType.FLOAT, FeatureType.FLOAT_SEQ):
                raise InputError(
                    f"numerical_features: '{field}' is a {self.field2type[field].value} in the files, not a float; "
                    f"write {field}:float in the file's first line, or leave it out to have its values as categories"
                )
        scenario = self.schema.scenario
        no_features = [*(task.field for task in self.schema.tasks), *self._weightsalone()]
        no_features += [] if scenario.field is None or scenario.keep_field else [scenario.field]
        check_table_rows(self.config, self.field2type, no_features, self._explain_missing)
        for field in (SCENARIO_FIELD, *self.schema.label_fields, *self.schema.weight_fields.values()):
            sources = (self.schema.scenario.field, *(task.field for task in self.schema.tasks))
            if field in self.field2type and field not in sources:
                raise InputError(f"the data have a field '{field}', a name this package needs: rename it in the files")

    def _add_label_of_positives(self) -> None:
        """Give a log that has no labels the label 1 in every row, where a task is read from it and negatives are drawn.

        Raises:
            InputError: the main task is this one, and the rows are to be evaluated by their labels, all of which are 1.
        """
        if not self._lacks_labels() or LABEL_OF_POSITIVES in self.field2type:
            return
        check_evaluated(self.config, self.schema, self._file("inter").name)
        self.inter_feat[LABEL_OF_POSITIVES] = np.ones(len(self.inter_feat))
        self.set_field_property(LABEL_OF_POSITIVES, FeatureType.FLOAT, FeatureSource.INTERACTION, 1)

    def _lacks_labels(self) -> bool:
        """Return whether a task is read from the label that a log of positives need not have, and it has none."""
        if not self._samples_negatives or not any(reads_positives(task) for task in self.schema.tasks):
            return False
        path = self._file("inter")
        separator, encoding = self.config["field_separator"], self.config["encoding"]
        return not path.is_file() or LABEL_OF_POSITIVES not in read_header(str(path), separator, encoding)

    def _check_weight_field(self, task: str, field: str) -> None:
        if self.field2source[field] != FeatureSource.INTERACTION or self.field2type[field] != FeatureType.FLOAT:
            where = getattr(self.field2source[field], "value", self.field2source[field])
            raise InputError(
                f"task '{task}': weight: '{field}' is a {self.field2type[field].value} of the {where} file, but "
                f"weights are numbers of interactions: a float column of {self._file('inter').name} ({field}:float)"
            )

    def _explain_missing(self, field: str) -> str:
        available = {}
        for suffix in ("inter", "user", "item"):
            path = os.path.join(self.dataset_path, f"{self.dataset_name}.{suffix}")
            if os.path.isfile(path):
                available[suffix] = list(read_header(path, self.config["field_separator"], self.config["encoding"]))
        for suffix, fields in available.items():
            if field in fields:
                where = f"{self.dataset_name}.{suffix}"
                return f"field '{field}' is in {where} but not loaded: add it to load_col: {suffix}"
        everything = [name for fields in available.values() for name in fields]
        listing = "; ".join(f".{suffix}: {', '.join(fields)}" for suffix, fields in available.items())
        return (
            f"no field '{field}' in dataset '{self.dataset_name}'{nearest(field, everything) or '.'} It has {listing}."
        )

    def _get_load_and_unload_col(self, source: Any) -> tuple[set[str] | None, set[str] | None]:
        load, unload = super()._get_load_and_unload_col(source)
        if load:  # a list of columns: what is declared elsewhere need not be listed again
            if source == FeatureSource.INTERACTION:
                load = load | {task.field for task in self.schema.tasks}
                load = load - ({LABEL_OF_POSITIVES} if self._lacks_labels() else set())
                load = load | {task.weight for task in self.schema.tasks} - {None}
            listed = {field for fields in self.config["load_col"].values() if fields != "*" for field in fields}
            load = load | {self.schema.scenario.field} - listed - {None}
        return load, unload

    def _remap_ID_all(self) -> None:
        if self.benchmark_filename_list is not None:  # splits that are ready made are not filtered
            self._check_numbers()
            check_weights(self.schema.tasks, self.inter_feat, self._place)
        for table, counts in self.data_report["files"].items():
            counts["used"] = len(getattr(self, f"{table}_feat"))
        rows = self.inter_feat.index if self._read_rows is None else self._read_rows

        def place(row: int) -> str:
            return self._place(int(rows[row]))

        labels = {task.label_field: self._labels(task, place) for task in self.schema.tasks}
        for warning in check_conversions(self.schema, labels, place):
            self._note(warning)
        self._read_rows = None
        for task in self.schema.tasks:
            if task.weight_field is not None:
                weights = self.inter_feat[task.weight].to_numpy(dtype=np.float32)
                labels[task.weight_field] = np.nan_to_num(weights)  # missing where the label is
        scenario_source, scenario = self._scenario_column()
        for field in dict.fromkeys((*(task.field for task in self.schema.tasks), *self._weightsalone())):
            self._drop_field(field)
        declared = self.schema.scenario
        if declared.field is not None and declared.field in self.field2type and not declared.keep_field:
            self._drop_field(declared.field)
        super()._remap_ID_all()

        for field, values in labels.items():
            self.inter_feat[field] = values
            self.set_field_property(field, FeatureType.FLOAT, FeatureSource.INTERACTION, 1)
        getattr(self, f"{scenario_source.value}_feat")[SCENARIO_FIELD] = scenario
        self.set_field_property(SCENARIO_FIELD, FeatureType.TOKEN, scenario_source, 1)
        self.field2id_token[SCENARIO_FIELD] = np.array(["[PAD]", *self.scenario_names])

    def _weightsalone(self) -> list[str]:
        """Return the fields that are weights and nothing else."""
        others = {self.schema.scenario.field, self.time_field, *(self.config["numerical_features"] or [])}
        return [task.weight for task in self.schema.tasks if task.weight is not None and task.weight not in others]

    def _labels(self, task: Task, place: Callable[[int], str]) -> np.ndarray:
        """Return the labels of a task (N,), and note its classes."""
        if task.type != "classes":
            return task.labels(_numbers(self.inter_feat[task.field]), place)
        if self.field2type[task.field].value.endswith("seq"):
            raise InputError(f"task '{task.name}': field '{task.field}' holds a sequence; a row has one class")
        self.label_classes[task.name], labels = class_labels(task, self.inter_feat[task.field].values, place)
        return labels

    def _scenario_column(self) -> tuple[FeatureSource, np.ndarray]:
        """Return the feature table the scenario belongs to, and its ids for every row of that table."""
        declared = self.schema.scenario
        if declared.field is None:
            self.scenario_names = ["all"]
            return FeatureSource.INTERACTION, np.ones(len(self.inter_feat), dtype=np.int64)
        source = self.field2source[declared.field]
        if source not in (FeatureSource.INTERACTION, FeatureSource.USER, FeatureSource.ITEM) and (
            source not in (FeatureSource.USER_ID, FeatureSource.ITEM_ID)
        ):
            raise InputError(f"scenario: '{declared.field}' must be a field of interactions, users or items")
        if source in (FeatureSource.USER_ID, FeatureSource.ITEM_ID):
            raise InputError(f"scenario: '{declared.field}' identifies a {source.value[:4]} and cannot be the scenario")
        if self.field2type[declared.field].value.endswith("seq"):
            raise InputError(f"scenario: field '{declared.field}' holds a sequence; a row belongs to one scenario")
        values = getattr(self, f"{source.value}_feat")[declared.field].values
        # Every value is looked at once, not once a row; one more at the end for a missing value.
        codes, found = pd.factorize(values)
        distinct = [*np.asarray(found, dtype=object), None]
        self.scenario_names = declared.fixed_names() or natural_order(distinct)
        if len(self.scenario_names) != len(set(self.scenario_names)):
            raise InputError(f"scenario: two scenarios have the same name in {self.scenario_names}")
        self._note_absent(source, distinct)
        ids = declared.assign(distinct, self.scenario_names)[codes]
        outside = ids == UNKNOWN_SCENARIO
        if source != FeatureSource.INTERACTION:  # a user or item without interactions is in nobody's way
            key = self.uid_field if source == FeatureSource.USER else self.iid_field
            outside &= getattr(self, f"{source.value}_feat")[key].isin(self.inter_feat[key]).to_numpy()
        if outside.any():
            example = values[outside][0]
            what = "no value" if pd.isna(example) else f"the value '{example}'"
            hint = "; list it in a group, or give the rest a name with other: NAME" if declared.groups else ""
            raise InputError(
                f"scenario: {int(outside.sum())} of {len(ids)} rows of the {source.value} file belong to no scenario: "
                f"field '{declared.field}' has {what} there{hint}"
            )
        return source, ids

    def _note_absent(self, source: FeatureSource, distinct: list[Any]) -> None:
        """Warn of values that a group lists and no row has."""
        declared, there = self.schema.scenario, {as_token(value) for value in distinct} - {None}
        for group, listed in (declared.groups or {}).items():
            for value in listed:
                if value not in there:
                    self._note(
                        f"scenario: group '{group}' lists '{value}', which '{declared.field}' is in no row of "
                        f"{self._file(source.value).name}{nearest(value, map(str, there))}"
                    )

    def _drop_field(self, field: str) -> None:
        (feat,) = self.field2feats(field)
        self._del_col(feat, field)
        self._rest_fields: np.ndarray = np.array([name for name in self._rest_fields if name != field])

    def _fill_nan(self) -> None:
        for field in self.config["numerical_features"] or []:
            if self.field2type.get(field) == FeatureType.FLOAT:
                (feat,) = self.field2feats(field)
                self.number_scale[field] = {"mean": float(feat[field].mean()), "low": 0.0, "width": 1.0}
        self._untimed = int(self.inter_feat[self.time_field].isna().sum()) if self.time_field in self.inter_feat else 0
        super()._fill_nan()
        if self.history_settings is not None and self.field2type.get(self.time_field) == FeatureType.FLOAT:
            self._read_times = self._times  # the rows of a split are numbered as these are

    def _normalize(self) -> None:
        before = {}
        for field in self.number_scale:
            (feat,) = self.field2feats(field)
            before[field] = feat[field].to_numpy(copy=True)
        super()._normalize()
        for field, values in before.items():
            (feat,) = self.field2feats(field)
            low, high = float(values.min()), float(values.max())
            if not np.array_equal(feat[field].to_numpy(), values):  # RecBole makes 1 of a constant
                self.number_scale[field] |= {"low": low, "width": high - low} if high > low else {"low": low - 1}
            largest = float(np.abs(feat[field].to_numpy()).max())
            if largest > _LARGE_NUMBER and field not in (self.config["discretization"] or {}):
                self._note(
                    f"the numerical feature '{field}' goes up to {largest:g}, and such numbers slow or spoil the "
                    f"training: normalize_field: [{field}] brings them to 0..1 (normalize_all: True does it for all)"
                )

    def _set_label_by_threshold(self) -> None:
        """RecBole's one thresholded label: the tasks say it here."""

    @property
    def float_like_fields(self) -> list[str]:
        """Float fields that may be normalised: labels and weights may not."""
        kept = {*self.schema.label_fields, *self.schema.weight_fields.values()}
        return [field for field in super().float_like_fields if field not in kept]

    # Splitting.

    def build(self) -> list[ScenarioDataset]:
        """Split into train, valid and test.

        Order and split are RecBole's `eval_args`, and besides `group_by: scenario` (every scenario is split by the
        ratios on its own), `cold_user` and `cold_item` (the ratios are of users or items, with all of
        their rows). Random numbers come from `data_seed`; the global generator is left as it was.

        Raises:
            InputError: a split is empty, a scenario has no training row, or the time order is asked for without times.
        """
        try:
            with torch.inference_mode(False):
                return self._build()
        finally:
            self._end_turn()

    def _build(self) -> list[ScenarioDataset]:
        if not self._restored:
            self._prepare()
            self._restored = True  # a second call finds what the first one made
            self._end_turn()  # before the splits are made, which are copies of this
        before = list(self.split_sizes)
        if self._only is not None and self._all_views is None:
            self._leave_only(self._only)
        if process_rank(self.config["lightning"]) == 0:  # of several processes that read the same
            for warning in self._data_warnings():
                warn(warning)
            self._warn_of_undefined()
        views = self._views()
        if not self._split_report:
            self._report_splits(before, views)
        for view, whole in zip(views, self._all_views or (), strict=False):
            for of_view in (view, view.every_label):
                of_view.all_scenarios = whole  # type: ignore[union-attr]
        for name, view in zip(SPLITS, views, strict=True):
            if len(view) == 0:
                raise InputError(f"no row of the {name} split has a label of the main task '{self.schema.main_task}'")
        return views

    def _leave_top(self, top: int) -> None:
        """Let the most frequent values of the training rows be scenarios, and all others one."""
        ids, other = self.row_scenario(self.inter_feat).numpy(), self.schema.scenario.other
        found = top_scenarios(self.scenario_names, ids, self.split_sizes[0], top, str(other))
        new_ids = torch.from_numpy(found.new_ids)
        source = self.field2source[SCENARIO_FIELD]
        table = self.inter_feat if source == FeatureSource.INTERACTION else getattr(self, f"{source.value}_feat")
        table[SCENARIO_FIELD] = new_ids[table[SCENARIO_FIELD]]
        self.scenario_names, self.top_scenarios = found.names, found.values
        self.field2id_token[SCENARIO_FIELD] = np.array(["[PAD]", *found.names])
        self.field2token_id = TokenIds(self.field2id_token)
        self.data_report["top_scenarios"] = found.report
        self._resolve_top()

    def _resolve_top(self, names: list[str] | None = None) -> None:
        """Set `schema` and the one scenario of `only_scenario` by the values that `top_scenarios` has.

        Args:
            names: names of scenarios, where those of the dataset are not all.
        """
        assert self.top_scenarios is not None
        declared = self.schema.scenario
        has_rest = declared.other in (self.scenario_names if names is None else names)
        self.schema = replace(self.schema, scenario=declared.with_top(self.top_scenarios, has_rest))
        if names is None:
            self._only = only_scenario(self.config, self.scenario_names)

    def _prepare(self) -> None:
        """Split the rows and pack them, into the cache where there is one."""
        with self._drawing():
            splits = self._split()
        if len(splits) != len(SPLITS):
            raise InputError(f"the data were split into {len(splits)} parts; it takes three: {', '.join(SPLITS)}")
        self._set_sizes([len(split) for split in splits])
        rows = torch.cat([split.inter_feat.rows for split in splits])
        first = splits[0].inter_feat
        self.inter_feat = SelectedRows(first.source, rows, first.exact)
        if self.schema.scenario.top is not None:
            self._leave_top(self.schema.scenario.top)
        if self.history_settings is not None:
            self._add_histories(self.history_settings, rows)
        self.inter_feat = pack_dataset(self)
        self.table_rows, report = make_table_rows(self.config, self, self.split_sizes[0])
        self.data_report |= {"table_rows": report} if report else {}
        self._check_scenarios()
        train = slice(self.split_sizes[0])
        columns = {task.name: self.inter_feat[task.label_field].numpy()[train] for task in self.schema.tasks}
        self.label_scale = label_scales(self.schema, columns)
        scale_weights(self.schema.tasks, self.inter_feat.packed, columns)
        for task in self.schema.tasks:
            if task.type == "classes":
                rest = self.inter_feat[task.label_field].numpy()[self.split_sizes[0] :]
                names = self.label_classes[task.name]
                for warning in check_trained(task, names, columns[task.name], rest):
                    self._note(warning)
        self._note_revealing(self.inter_feat.packed, sample_rows(self.split_sizes[0]))
        if self._cache_entry is not None and cache.store(self, self._cache_entry):
            cache.map_rows(self, self._cache_entry)  # the memory that other processes use too

    def _add_histories(self, settings: HistorySettings, rows: torch.Tensor) -> None:
        """Set `history`, and give every row of the splits the column `HISTORY_FIELD`.

        Args:
            settings: the declaration.
            rows: the place of every row in the file (N,); the training rows come first.
        """
        excluded = {SCENARIO_FIELD, self.time_field, *self.schema.label_fields}
        kinds = {
            field: (kind.value, str(getattr(self.field2source[field], "value", self.field2source[field])))
            for field, kind in self.field2type.items()
            if field not in excluded and field in self.field2source
        }
        check_fields(settings, kinds, self.schema.tasks)
        check_given(settings, kinds, self.field2id_token)
        if not settings.fields:
            return
        if settings.order == "position":
            times = rows.numpy().astype(np.float64)
        else:
            times = checked_times(self._read_times, self._untimed, self.time_field)[rows.numpy()]
        self._read_times = None
        users = self.inter_feat[self.uid_field]
        own = settings.scenario == "own"
        scenarios = self.row_scenario(self.inter_feat) if own else torch.zeros_like(users)
        pool = torch.arange(len(rows)) < self.split_sizes[0]
        if settings.of is not None:
            pool &= self.inter_feat[label_field(settings.of)] == 1
        # Fields of items are looked up by the item's id.
        kept = [self.iid_field, *(field for field in settings.fields if kinds[field][1] == "inter")]
        values = {field: self.inter_feat[field][pool] for field in kept}
        places = pool.nonzero().squeeze(1)
        self.history = HistoryRows.from_rows(users[pool], scenarios[pool], places, times[pool.numpy()], values)
        self.inter_feat[HISTORY_FIELD] = self.history.find(users, scenarios, times)

    def _note_revealing(self, packed: Packed, rows: np.ndarray) -> None:
        """Note features that give a label away, by some training rows of packed rows."""
        for name, field, auc in revealing_features(self, packed, rows):
            self._note(
                f"'{field}' alone ranks the task '{name}' almost perfectly (AUC {auc:.3f} on training rows): if it "
                "is known only after what is predicted, the model must not see it; unload_col: "
                f"{{{getattr(self.field2source[field], 'value', 'inter')}: [{field}]}} leaves it out"
            )

    @contextmanager
    def _drawing(self) -> Iterator[None]:
        """Draw from `data_seed`; the global generator is then as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.config["data_seed"])  # not torch's: that seeds GPUs too
            yield

    def _set_sizes(self, sizes: list[int]) -> None:
        self.split_sizes = sizes
        for name, size in zip(SPLITS, sizes, strict=True):
            if size == 0:
                raise InputError(
                    f"the {name} split is empty: {sum(sizes)} interactions were split by "
                    f"eval_args: {self.config['eval_args']['split']}; give every split a share"
                )

    def _report_splits(self, before: list[int], views: list[ScenarioDataset]) -> None:
        no_label = f"task '{self.schema.main_task}' has no label"
        for name, rows, inside, view in zip(SPLITS, before, self.split_sizes, views, strict=True):
            counts = ((rows - inside, "the scenario is another", "only_scenario"),
                      (inside - len(view), no_label, "main_task"))  # fmt: skip
            dropped = [{"rule": rule, "key": key, "rows": number} for number, rule, key in counts if number]
            self._split_report[name] = {"rows": rows, "used": len(view), "dropped": dropped}

    def _split(self) -> list[Dataset]:
        order, split = self.config["eval_args"]["order"], self.config["eval_args"]["split"] or {}
        if order == "TO" or "TS" in split:
            self._check_times("a time-ordered split")
        if self.config["rows_after"] is not None:
            self._check_times("rows_after")
        if "TS" in split and order != "TO":
            # RecBole cuts each user's rows where they stand, so unsorted ones would mix past and future.
            raise InputError("eval_args: a split by time (TS) needs order: TO")
        for mode, ratios in split.items():
            if mode in ("RS", "TS") and len(ratios) != len(SPLITS):
                raise InputError(f"eval_args: split needs three shares (train, valid, test), got {mode}: {ratios}")
        group_by = self.config["eval_args"]["group_by"]
        if self.benchmark_filename_list is not None and group_by in HELD_OUT:
            raise InputError(
                f"eval_args: group_by: {group_by} draws the splits, and benchmark_filename gives them as files: leave "
                "one of the two out"
            )
        if group_by not in ("scenario", *HELD_OUT) or self.benchmark_filename_list is not None:
            splits: list[Any] = super().build()
            return splits
        if "RS" not in split:
            right = "such as split: {RS: [0.8, 0.1, 0.1]}, "
            raise InputError(f"eval_args: group_by: {group_by} splits by ratio (RS), {right}not {split}")
        self._change_feat_format()
        if order == "TO":
            self.sort(by=self.time_field)
        else:
            self.shuffle()
        if group_by in HELD_OUT:
            return self._hold_out()
        return self._split_by_scenario(split["RS"])

    def _change_feat_format(self) -> None:
        """RecBole's; then leave the rows that `rows_after` asks for.

        The ids are those of all rows: users and items keep theirs, and their tables, on days without a row.
        """
        after, times = self.config["rows_after"], self._times
        super()._change_feat_format()
        if after is None:
            return
        assert times is not None
        stays = times > after
        gone = int((~stays).sum())
        self.data_report["files"]["inter"]["used"] -= gone
        self._count_left_out("inter", gone, f"{self.time_field} is not after {after:.15g}", "rows_after")
        if not stays.any():
            raise InputError(
                f"rows_after: no row is later than {after:.15g}; the last {self.time_field} is {times.max():.15g}"
            )
        if self.benchmark_filename_list is not None:
            ends = np.cumsum([0, *self.file_size_list])
            self.file_size_list = [int(stays[start:end].sum()) for start, end in pairwise(ends)]
        self.inter_feat = self.inter_feat[torch.from_numpy(stays.nonzero()[0])]
        if self.history_settings is not None and self.history_settings.fields:
            self._note("rows_after: histories hold rows after that time alone; those before it are left out")

    def _check_times(self, what: str) -> None:
        """Refuse interactions that cannot be put in order by time.

        Args:
            what: what needs the times.

        Raises:
            InputError: there is no time field, it is no number, or some times are missing, infinite or all equal.
        """
        is_split = what != "rows_after"
        if self.time_field not in self.inter_feat:
            raise InputError(f"{what} needs the time field '{self.time_field}' (TIME_FIELD) in the interactions")
        if self.field2type[self.time_field] != FeatureType.FLOAT:
            raise InputError(
                f"{what} needs numbers, but '{self.time_field}' is a "
                f"{self.field2type[self.time_field].value}: write {self.time_field}:float in the file's first line"
            )
        times = self._times
        assert times is not None
        if self._untimed:
            raise InputError(
                f"{what} needs the time of every interaction, but '{self.time_field}' is empty in "
                f"{self._untimed} of {len(times)}: fill it in, or remove these rows"
                + (", or split with order: RO" if is_split else "")
            )
        if not np.isfinite(times).all():
            raise InputError(
                f"{what} needs finite times, but '{self.time_field}' is infinite in "
                f"{int((~np.isfinite(times)).sum())} of {len(times)} rows"
            )
        if is_split and times.min() == times.max():
            raise InputError(f"{what} needs times, but every '{self.time_field}' is {times[0]:.15g}")

    def _ratio_ends(self) -> Callable[[int], Sequence[int]]:
        """Return what says where training and validation end, of so many."""
        ratios = self.config["eval_args"]["split"]["RS"]
        return partial(self._calcu_split_ids, ratios=[ratio / sum(ratios) for ratio in ratios])

    def _held_out_field(self) -> str | None:
        """Return the field of the users or items that are held out; None where rows are split."""
        group_by = self.config["eval_args"]["group_by"]
        if group_by not in HELD_OUT:
            return None
        return str(self.uid_field if group_by == "cold_user" else self.iid_field)

    def _hold_out(self) -> list[Dataset]:
        """Split the users or items by ratio, drawn at random; each with all of its rows, in their order."""
        parts = held_out_parts(self.inter_feat[self._held_out_field()].numpy(), self._ratio_ends())
        self._drop_unused_col()
        return [self.copy(self.inter_feat[np.flatnonzero(parts == number)]) for number in range(len(SPLITS))]

    def _split_by_scenario(self, ratios: Sequence[float]) -> list[Dataset]:
        """Split the rows of each scenario by ratio, in their order."""
        # RecBole groups by a column of the interactions; a user's or item's scenario is lent to them for that.
        lent = SCENARIO_FIELD not in self.inter_feat
        if lent:
            self.inter_feat[SCENARIO_FIELD] = self.row_scenario(self.inter_feat)
        splits: list[Dataset] = self.split_by_ratio(ratios, group_by=SCENARIO_FIELD)
        if lent:
            for part in (self, *splits):
                part.inter_feat.drop(SCENARIO_FIELD)
        return splits

    def training_counts(self, field: str) -> np.ndarray:
        """Count the training rows of every user or item, whatever labels they have.

        Args:
            field: of the users or items.

        Returns:
            By id, how many rows of the training split have it (ids,). Of one scenario alone, its rows.
        """
        whole = self if self.every_label is None else self.every_label
        rows = whole.inter_feat if whole.split_name == "train" else whole.earlier
        counts: np.ndarray = np.bincount(
            column_of(rows, field).numpy()[: self.split_sizes[0]], minlength=len(self.field2id_token[field])
        )
        return counts

    def row_times(self) -> np.ndarray | None:
        """Return the time of every interaction (N,) as it was read, in float64; None where there are no times."""
        inter = self.inter_feat
        if self.time_field not in inter or self.field2type[self.time_field] != FeatureType.FLOAT:
            return None
        if isinstance(inter, PackedRows) and inter.packed.times is not None:
            return inter.packed.times.numpy()
        times: np.ndarray = inter[self.time_field].numpy().astype(np.float64)
        return times if times.ndim == 1 else times[:, 0]  # a numerical feature is beside a 1

    def row_scenario(self, inter: Interaction) -> torch.Tensor:
        """Scenario ids of interactions (N,), wherever the scenario is kept."""
        source = self.field2source[SCENARIO_FIELD]
        scenario: torch.Tensor
        if source == FeatureSource.INTERACTION:
            scenario = inter[SCENARIO_FIELD]
            return scenario
        joined = (self.user_feat, self.item_feat)
        if isinstance(inter, PackedRows) and SCENARIO_FIELD in inter.packed.places and inter.is_as_packed(joined):
            return inter.packed.column(SCENARIO_FIELD)
        table, key = (
            (self.user_feat, self.uid_field) if source == FeatureSource.USER else (self.item_feat, self.iid_field)
        )
        scenario = table[SCENARIO_FIELD][inter[key]]
        return scenario

    def _check_scenarios(self) -> None:
        """Refuse scenarios that cannot be learnt."""
        unknown = self._count_cells(self.row_scenario(self.inter_feat).numpy())
        self._check_cells(unknown)

    def _check_cells(self, unknown: int) -> None:
        """Refuse scenarios by their counts; set `scenario_shares`.

        Args:
            unknown: number of rows of no scenario.
        """
        if unknown:
            raise InputError(
                f"scenario: {unknown} interactions have a user or item without a value of "
                f"'{self.schema.scenario.field}'"
            )
        for name, (train, valid, test) in zip(self.scenario_names, zip(*self.cells["rows"], strict=True), strict=True):
            if train == 0 and valid + test > 0:
                where = " and ".join(n for n, c in (("validation", valid), ("test", test)) if c)
                raise InputError(
                    f"scenario '{name}' has no training row, only {valid + test} in {where}: nothing can be learnt of "
                    "it. Merge it with another (bins or groups), or split with eval_args: {group_by: scenario}."
                )
        # A scenario that was declared (a bin, a group) but holds no row at all stays, and is reported as undefined.
        counts = np.array(self.cells["rows"][0])
        self.scenario_shares = (counts / counts.sum()).tolist()

    def _count_cells(self, scenario: np.ndarray) -> int:
        """Set `cells`; return the number of rows of no scenario."""
        counts, end = CellCounts(self.schema, len(self.scenario_names)), 0
        labels = {task.name: self.inter_feat[task.label_field].numpy() for task in self.schema.tasks}
        for number, size in enumerate(self.split_sizes):
            rows = slice(end, end := end + size)
            counts.add(number, scenario[rows], {name: column[rows] for name, column in labels.items()})
        self.cells = counts.cells()
        return counts.unknown

    def _warn_of_undefined(self) -> None:
        """Tell which scenarios have too few rows, or one class, in a split."""
        logger = logging.getLogger(__name__)
        least = self.config["min_scenario_rows"] or 1
        by_label = not (self._samples_negatives and ranks(self.config))  # else one label is no fault
        for number, split in enumerate(SPLITS):
            for index, name in enumerate(self.scenario_names):
                rows = self.cells["rows"][number][index]
                if rows < least:
                    logger.warning("scenario '%s' has %d rows in the %s split", name, rows, split)
                    continue
                for task in self.schema.tasks if by_label else ():
                    counts = self.cells["labels"][task.name][number]
                    classes = [value for value in (0, 1) if counts[value][index]]
                    if len(classes) < 2:
                        there, metric = _ONE_LABEL[task.kind]
                        there = there.format(*classes) if classes else "no label"
                        logger.warning(
                            "scenario '%s' has %s of task '%s' in the %s split: its %s there",
                            name, there, task.name, split, metric,
                        )  # fmt: skip

    def _views(self) -> list[ScenarioDataset]:
        ends = np.cumsum(self.split_sizes)
        sizes = zip(SPLITS, ends, self.split_sizes, strict=True)
        return [self._view(name, end - size, end) for name, end, size in sizes]

    def _view(self, name: str, start: int, end: int) -> ScenarioDataset:
        joined = (self.user_feat, self.item_feat)
        inter = self.inter_feat.part(slice(start, end), joined)
        view: ScenarioDataset = self.copy(inter)
        view.split_name, view.earlier = name, self.inter_feat.part(slice(0, start), joined)
        view.every_label = view
        if not hasattr(getattr(self.config, "model_class", None), "predict_tasks"):
            view = view.copy(_labelled(inter, self.schema, joined))
        return view

    def of_single_task(self, config: Any) -> ScenarioDataset:
        """Return this split, which has the rows of all tasks, as `build` gives it to a model of one task.

        Args:
            config: a configuration of the same data with a single-task model, whose `main_task` it is for.

        Raises:
            InputError: no row has a label of that task.
        """
        schema = Schema.from_config(config)
        assert schema is not None
        schema = replace(schema, scenario=self.schema.scenario)
        inter = _labelled(self.inter_feat, schema, (self.user_feat, self.item_feat))
        if len(inter) == 0:
            raise InputError(f"no row of a split has a label of the task '{schema.main_task}'")
        view: ScenarioDataset = self.copy(inter)
        view.config, view.schema, view.label_field = config, schema, config["LABEL_FIELD"]
        return view

    # One scenario alone.

    def _leave_only(self, name: str) -> None:
        """Let the named scenario be the only one, in this dataset and the splits it will give.

        The tables that there were are left as they are: the splits with all scenarios go on using them.
        """
        index = self.scenario_names.index(name) + 1
        inside = self.row_scenario(self.inter_feat) == index
        sizes = [int(part.sum()) for part in inside.split(self.split_sizes)]
        for split, size in zip(SPLITS, sizes, strict=True):
            if size == 0:
                raise InputError(
                    f"only_scenario: no row of the {split} split is of the scenario '{name}', which has "
                    f"{sum(sizes)} rows; eval_args: {{group_by: scenario}} gives every scenario its share of each split"
                )
        self._all_views = self._views()
        source = self.field2source[SCENARIO_FIELD]
        if source != FeatureSource.INTERACTION:
            columns = getattr(self, f"{source.value}_feat").interaction
            ids = torch.where(columns[SCENARIO_FIELD] == index, 1, UNKNOWN_SCENARIO)
            setattr(self, f"{source.value}_feat", Interaction(columns | {SCENARIO_FIELD: ids}))
        train = inside[: self.split_sizes[0]]
        self.inter_feat = self.inter_feat.part(inside, (self.user_feat, self.item_feat))
        packed = self.inter_feat.packed  # a copy, by the selection
        if SCENARIO_FIELD in packed.places:
            packed.tokens[:, packed.places[SCENARIO_FIELD][1]] = 1
        if self.history is not None:
            self._leave_histories(train)
        self.field2id_token = self.field2id_token.copy()
        self.field2id_token[SCENARIO_FIELD] = np.array(["[PAD]", name])
        self.field2token_id = TokenIds(self.field2id_token)
        self.schema = alone(self.schema, name)
        self.split_sizes, self.scenario_names, self.scenario_shares = sizes, [name], [1.0]
        self._count_cells(np.ones(len(self.inter_feat), dtype=np.int64))

    def _leave_histories(self, train: torch.Tensor) -> None:
        """Let histories be of the named training rows alone (a mask of all training rows), as rows of scenario 1."""
        assert self.history is not None
        packed = self.inter_feat.packed
        kept, ranges = self.history.select(train[self.history.places], packed.column(HISTORY_FIELD))
        self.history = replace(kept, scenarios=kept.scenarios.clamp(max=1))
        start = packed.places[HISTORY_FIELD][1]
        packed.tokens[:, start : start + 2] = ranges.int()


def _labelled(inter: PackedRows, schema: Schema, joined: tuple[Any, Any]) -> PackedRows:
    """Return the rows that carry the main task's label: a single-task model can use no others."""
    main = schema.tasks[schema.main_index]
    labelled = inter[main.label_field] != main.missing_label
    return inter if bool(labelled.all()) else inter.part(labelled, joined)


def _numbers(column: pd.Series) -> Any:
    """Return the values of a column; tokens that are all numbers as these."""
    if not is_categorical(column):
        return column.values
    try:
        numbers = np.array([float(token) for token in column.cat.categories], dtype=np.float64)
    except ValueError:
        return column.astype(object).values
    return np.append(numbers, np.nan)[column.cat.codes.to_numpy()]
