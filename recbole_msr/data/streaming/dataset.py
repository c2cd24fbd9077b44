"""A dataset whose interactions go from a table straight into packed tables on disk.

The first pass over the table writes every column to a scratch file, as codes or numbers, and notes the vocabularies.
Filters work on the codes. Then the dataset's own way from raw values to ids, scenarios and labels is walked by a few
rows that have everything: every token of every column once, the least and the greatest number, a missing cell where
there is one. What that gives for these rows holds for all. The second pass makes ids, labels and numbers of the scratch
files by blocks, and puts each row in its place in the entry of the cache.

Memory holds the vocabularies, the tables of users and items, a block of rows, and a few bytes for every row (whether it
stays, and its place). Fields of users and items are not copied into the rows: a batch looks them up by their ids.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from recbole.utils import FeatureSource, FeatureType

from recbole_msr.data import cache
from recbole_msr.data.cell_counts import CellCounts
from recbole_msr.data.columnar import EVERY_NUMBER, PADDING
from recbole_msr.data.core_filter import filter_to_core
from recbole_msr.data.counted import KNOWN_IDS, TOO_FEW
from recbole_msr.data.dataset import ScenarioDataset
from recbole_msr.data.label_scale import label_scales
from recbole_msr.data.rows import Packed
from recbole_msr.data.rows_report import sample_rows
from recbole_msr.data.split_rows import Cuts, held_out_parts, leave_one_out_cuts, ratio_cuts
from recbole_msr.data.streaming.interactions import Interactions, NumberStats
from recbole_msr.data.streaming.order import part_places, random_order, split_places, time_order
from recbole_msr.data.streaming.packing import (
    Make,
    Places,
    labels_in_place,
    places_of,
    tables_of,
    write_rows,
)
from recbole_msr.data.streaming.scratch import ScratchColumn
from recbole_msr.data.streaming.support import reason_against
from recbole_msr.data.streaming.tensor_file import TensorFile
from recbole_msr.data.tables.placed import PlacedTable
from recbole_msr.errors import InputError
from recbole_msr.schema import SCENARIO_FIELD, Task

_OF_VALUES = "its values, of which the reader of that file is to say what is wrong ({})"

logger = logging.getLogger(__name__)


class StreamedDataset(ScenarioDataset):
    """A `ScenarioDataset` made of a table, never holding its rows in memory.

    What a configuration asks for beyond the two passes, and what is wrong with a table's values, is found by way of the
    atomic file, which is then written.
    """

    _placed: PlacedTable | None = None
    _log: Interactions | None = None
    _scratch: Any = None
    _stats: Mapping[str, NumberStats]
    _orders: Mapping[str, np.ndarray]
    _ids: dict[str, np.ndarray]
    _normalised: set[str]
    _token_numbers: dict[str, np.ndarray]
    _streams = False

    def _read(self) -> None:
        self._placed = PlacedTable.of_dataset(self.dataset_path, self.dataset_name)
        if self._placed is None:
            super()._read()
            return
        reason = reason_against(self.config, self._kinds())
        if reason is None:
            self._streams, self._token_numbers = True, {}
            try:
                super(ScenarioDataset, self)._from_scratch()
                self._check_order()
                return
            except _ReadError as error:
                raise error.cause from error
            except InputError as error:
                reason = _OF_VALUES.format(error)
        self._by_atomic_file(reason)

    def _by_atomic_file(self, reason: str) -> None:
        """Begin anew, with the atomic file."""
        assert self._placed is not None
        logger.warning("%s is read by way of an atomic file, for %s", self._placed.name, reason)
        self._streams = False
        self._drop_scratch()
        self.number_scale, self.label_scale, self.label_classes = {}, {}, {}
        self.data_report = {"files": {}, "warnings": []}
        self._read_rows = self._read_times = None
        super()._read()

    def _drop_scratch(self) -> None:
        if self._log is not None:
            self._log.close()
        if self._scratch is not None:
            self._scratch.cleanup()
        self._log = self._scratch = None

    def _end_turn(self) -> None:
        self._drop_scratch()
        super()._end_turn()

    def _line(self, table: str, row: int) -> str:
        """Name the place of a row; of interactions there are but some here, one for each value of a column."""
        if table == "inter" and self._log is not None:
            assert self._placed is not None
            return f"a row of {self._placed.name}"
        return super()._line(table, row)

    def _kinds(self) -> dict[str, FeatureType]:
        """Return the columns of the table that the configuration loads."""
        assert self._placed is not None
        load, unload = self._get_load_and_unload_col(FeatureSource.INTERACTION)
        return {
            field: kind
            for field, kind in self._placed.types.items()
            if (load is None or field in load) and (unload is None or field not in unload)
        }

    # The first pass.

    def _load_inter_feat(self, token: str, dataset_path: str) -> None:
        if not self._streams:
            super()._load_inter_feat(token, dataset_path)
            return
        assert self._placed is not None
        assert self._cache_entry is not None
        root = self._cache_entry.parent
        try:
            source = self._placed.source(self._digests)
            root.mkdir(parents=True, exist_ok=True)
            self._scratch = tempfile.TemporaryDirectory(prefix=f".{self._cache_entry.name}-", dir=root)
            self._log = Interactions(Path(self._scratch.name), self._kinds())
            self._log.read(source)
            if not self._log.rows:
                raise InputError(f"{source.name} has no rows")
        except InputError as error:
            raise _ReadError(error) from error
        except OSError as error:
            raise _ReadError(self._unwritable(error)) from error
        self._note_unlisted(self._placed.name, FeatureSource.INTERACTION, self._placed.types)
        for field, kind in self._log.kinds.items():
            self._enter_field(field, kind, FeatureSource.INTERACTION, self._placed.name)
            if field in self._log.tokens and PADDING in self._log.tokens[field].tokens:
                raise InputError(f"'{field}' is '{PADDING}' somewhere")
        name = self._placed.files[0] if len(self._placed.files) == 1 else self._placed.name
        read = {"file": Path(name).name, "read": self._log.rows, "used": 0, "dropped": []}
        self.data_report["files"]["inter"] = read
        self._walk_anew()

    def _unwritable(self, error: OSError) -> InputError:
        assert self._cache_entry is not None
        return InputError(
            f"cannot prepare the dataset below {self._cache_entry.parent}: {error.strerror or error}; cache_dir names "
            "another folder"
        )

    # Filters, on codes.

    def _data_filtering(self) -> None:
        if self._log is None:
            super()._data_filtering()
            return
        self._filter_nan_user_or_item()
        for field in (self.uid_field, self.iid_field):
            gone, first = self._log.keep(partial(self._is_known, field, None))
            if gone:
                assert self._placed is not None
                self._count_left_out("inter", gone, f"{field} is empty", None, self._placed.place(first))
        self._filter_inter_by_user_or_item()
        self._filter_by_inter_num()
        if not self._log.stays.all():
            self._walk_anew()
        self._reset_index()

    def _is_known(self, field: str, known: np.ndarray | None, rows: slice) -> np.ndarray:
        """Return which rows have a token, or one of the known codes (V + 1,)."""
        assert self._log is not None
        codes = self._log.columns[field][rows]
        found: np.ndarray = codes >= 0 if known is None else known[codes]
        return found

    def _filter_inter_by_user_or_item(self) -> None:
        if self._log is None:
            super()._filter_inter_by_user_or_item()
            return
        for side, field in (("user", self.uid_field), ("item", self.iid_field)):
            feat = getattr(self, f"{side}_feat")
            if feat is None or self.config[KNOWN_IDS] is not True:
                continue
            tokens, column = self._log.tokens[field].tokens, self._log.columns[field]
            known = np.append(self._log.index(field).isin(feat[field].astype(object)), False)
            gone, first = self._log.keep(partial(self._is_known, field, known))
            if not self._log.stays.any():
                raise InputError(f"no {field} is in {self._file(side).name}")
            if gone:
                example = f"'{tokens[column[slice(first, first + 1)][0]]}'"
                self._count_left_out("inter", gone, f"{field} is not in {self._file(side).name}", KNOWN_IDS, example)

    def _filter_by_inter_num(self) -> None:
        if self._log is None:
            super()._filter_by_inter_num()
            return
        sides = []
        for name, field in (("user", self.uid_field), ("item", self.iid_field)):
            interval = self._parse_intervals_str(self.config[f"{name}_inter_num_interval"])
            if interval is not None and interval != EVERY_NUMBER:
                feat, codes = getattr(self, f"{name}_feat"), self._log.columns[field].__getitem__
                sides.append((name, feat, self._core_side(interval, self._log.index(field), codes, feat, field)))
        before = self._log.kept
        filter_to_core([side for _, _, side in sides], self._log.stays)
        rule, key = TOO_FEW
        self._count_left_out("inter", before - self._log.kept, rule, key)
        for name, feat, side in sides:
            if feat is not None and not side.in_table.all():
                self._leave_out(name, ~side.in_table, rule, key)

    # The rows that walk the way of all.

    def _walk_anew(self) -> None:
        """Set the interactions to a few rows that have every value that decides something."""
        assert self._log is not None
        log = self._log
        orders = {field: log.appearing(field) for field in log.tokens}
        self._orders = {field: order for field, (order, _) in orders.items()}
        self._stats = {field: log.stats(field) for field in log.kinds if field not in log.tokens}
        rows = 0 if not log.stays.any() else 3 + max(len(order) for order in self._orders.values())
        columns: dict[str, Any] = {}
        for field in log.kinds:
            if field in log.tokens:
                order, missing = orders[field]
                codes = np.full(rows, order[0] if len(order) else -1, dtype=np.int32)
                codes[: len(order)] = order[:rows]
                if missing and field not in (self.uid_field, self.iid_field):  # whose rows go
                    codes[-1:] = -1
                dtype = pd.CategoricalDtype(log.index(field))
                columns[field] = pd.Categorical.from_codes(codes, dtype=dtype, validate=False)
                continue
            stats = self._stats[field]
            numbers = np.full(rows, stats.first)
            numbers[:2] = (stats.low, stats.high)[:rows]
            numbers[-1:] = np.nan if stats.missing else numbers[-1:]
            columns[field] = numbers
        self.inter_feat = pd.DataFrame(columns, copy=False)

    def _remap_ID_all(self) -> None:
        super()._remap_ID_all()
        if self._log is None:
            return
        self.data_report["files"]["inter"]["used"] = self._log.kept
        declared = str(self.schema.scenario.field)
        self._ids = {field: self._map_of(field, field) for field in self._log.tokens if field in self.inter_feat}
        if declared in self._log.tokens and SCENARIO_FIELD in self.inter_feat:
            self._ids[SCENARIO_FIELD] = self._map_of(declared, SCENARIO_FIELD)

    def _map_of(self, field: str, column: str) -> np.ndarray:
        """Return what each code of a field became in a column (V + 1,); the last is that of -1."""
        assert self._log is not None
        order, values = self._orders[field], np.zeros(len(self._log.tokens[field].tokens) + 1, dtype=np.int32)
        values[order] = self.inter_feat[column].to_numpy()[: len(order)]
        return values

    def _fill_nan(self) -> None:
        super()._fill_nan()
        for field in self.number_scale.keys() & self._stats.keys() if self._log is not None else ():
            self.number_scale[field]["mean"] = self._stats[field].mean

    def _normalize(self) -> None:
        wanted = self.config["normalize_field"] or (self.float_like_fields if self.config["normalize_all"] else ())
        self._normalised = set(wanted)
        super()._normalize()

    def _check_order(self) -> None:
        """Refuse times that rows cannot be sorted by; the atomic file's reader tells what is wrong."""
        is_sorted = self.config["eval_args"]["order"] == "TO"
        if is_sorted or self.config["rows_after"] is not None:
            times = self._stats.get(str(self.time_field))
            if times is None or self.time_field not in self.inter_feat:
                raise InputError(f"'{self.time_field}' is no column of numbers")
            is_finite = not times.missing and np.isfinite([times.low, times.high]).all()
            if not is_finite or (is_sorted and times.low == times.high):
                raise InputError(f"'{self.time_field}' gives rows no order")

    # The second pass.

    def _prepare(self) -> None:
        if self._log is None:
            super()._prepare()
            return
        try:
            self._write_splits(Path(self._scratch.name))
        except OSError as error:
            raise self._unwritable(error) from error
        except InputError as error:
            self._by_atomic_file(_OF_VALUES.format(error))
            super()._prepare()

    def _write_splits(self, scratch: Path) -> None:
        """Split the rows and write them as an entry of the cache, which they are then mapped from."""
        assert self._log is not None
        assert self._cache_entry is not None
        self._leave_earlier()
        with self._drawing():
            order = self._order(scratch)
            held_out = self._held_out()
        if held_out is not None:
            places, sizes = part_places(order, held_out)
        else:
            places, sizes = split_places(self._log.kept, order, self._groups(), self._cuts(), scratch)
        order.close()
        self._set_sizes(sizes)
        try:
            with cache.new_entry(self._cache_entry) as folder:
                self._write_entry(folder, places)
        except OSError:
            if not self._cache_entry.is_dir():  # else another process was faster, and wrote the same
                raise
        try:
            self.inter_feat = cache.rows_of(self, self._cache_entry)
        except cache.DAMAGE as error:
            raise InputError(f"the prepared dataset in {self._cache_entry} cannot be read ({error})") from error

    def _leave_earlier(self) -> None:
        """Leave the rows that `rows_after` asks for; ids and means are those of all rows."""
        assert self._log is not None
        after = self.config["rows_after"]
        if after is not None:
            times = self._log.columns[str(self.time_field)]
            gone, _ = self._log.keep(lambda rows: times[rows] > after)
            if not self._log.stays.any():
                raise InputError("rows_after leaves no row")
            self.data_report["files"]["inter"]["used"] -= gone
            rule = f"{self.time_field} is not after {after:.15g}"
            self._count_left_out("inter", gone, rule, "rows_after")

    def _order(self, folder: Path) -> ScratchColumn:
        """Return the order in which the rows are cut."""
        assert self._log is not None
        if self.config["eval_args"]["order"] == "RO":
            return random_order(self._log.kept, folder)
        return time_order(self._log, str(self.time_field), folder)

    def _cuts(self) -> Cuts:
        split = self.config["eval_args"]["split"]
        return leave_one_out_cuts(split["LS"]) if "LS" in split else ratio_cuts(self._ratio_ends())

    def _held_out(self) -> np.ndarray | None:
        """Draw the part of every row that stays (n,), where whole users or items are held out."""
        field = self._held_out_field()
        if field is None:
            return None
        return held_out_parts(self._of_each_row(partial(self._tokens, field)), self._ratio_ends())

    def _groups(self) -> np.ndarray | None:
        """Return the group of every row that stays (n,), which is split by itself; None for all rows in one."""
        assert self._log is not None
        log, eval_args = self._log, self.config["eval_args"]
        by = "user" if "LS" in eval_args["split"] else str(eval_args["group_by"]).lower()
        if by == "none":
            return None
        return self._of_each_row(partial(log.take, self.uid_field) if by == "user" else self._scenario)

    def _of_each_row(self, make: Make) -> np.ndarray:
        """Return whole numbers of every row that stays (n,), int32."""
        assert self._log is not None
        column, first = np.empty(self._log.kept, dtype=np.int32), 0
        for rows, stays in self._log.kept_blocks():
            values = make(rows, stays)
            column[first : first + len(values)] = values
            first += len(values)
        return column

    def _write_entry(self, folder: Path, row_places: np.ndarray) -> None:
        super(ScenarioDataset, self)._change_feat_format()  # of the few rows, of which none is too early
        self._drop_unused_col()
        columns = {name: self.inter_feat.source[name] for name in self.inter_feat.source}
        places = places_of(columns)
        makers = {name: self._maker(name) for name in columns}
        times = self._stats.get(str(self.time_field))  # None of times that are text, which order nothing
        if self.time_field in columns and times is not None and not times.is_single:
            makers["times"] = partial(self._numbers, self.time_field)
        tensors, shared = cache.tensors_of(self, ("user", "item"))
        tables = tables_of(len(row_places), places, "times" in makers)
        out = TensorFile(folder / cache.TENSOR_FILE, tensors, tables)
        del tensors
        try:
            sample = self._write_rows(out, places, makers, row_places)
            del row_places
            self._learn_of_training(out, places, sample)
        finally:
            out.close()
        state = cache.state_of(self, ("inter", "user", "item"), shared)
        state["places"], state["own"] = places, list(columns)
        cache.finish_state(state, folder)

    def _write_rows(
        self, out: TensorFile, places: Places, makers: Mapping[str, Make], row_places: np.ndarray
    ) -> np.ndarray:
        """Write the rows and count their cells; return some of the training rows."""
        assert self._log is not None
        counts, ends = CellCounts(self.schema, len(self.scenario_names)), np.cumsum(self.split_sizes)

        def count(own: np.ndarray, rows: np.ndarray) -> None:
            labels = {task.name: rows["floats"][:, places[task.label_field][1]] for task in self.schema.tasks}
            if SCENARIO_FIELD in places:
                scenario = rows["tokens"][:, places[SCENARIO_FIELD][1]]
            else:
                table, key = self._scenario_table()
                scenario = table[rows["tokens"][:, places[key][1]]]
            counts.add(np.searchsorted(ends, own, side="right"), scenario, labels)

        some = sample_rows(self.split_sizes[0])
        sample = write_rows(self._log, out, places, makers, row_places, count, Path(self._scratch.name), some)
        self.cells = counts.cells()
        self._check_cells(counts.unknown)
        return sample

    def _learn_of_training(self, out: TensorFile, places: Places, sample: np.ndarray) -> None:
        """Set the scale of numbers, and note features that give a label away."""
        train = self.split_sizes[0]
        numbers = [task for task in self.schema.tasks if task.type == "number"]
        self.label_scale = label_scales(
            self.schema, {task.name: labels_in_place(out, places, task.label_field, train) for task in numbers}
        )
        tokens, floats = (torch.from_numpy(np.ascontiguousarray(sample[kind])) for kind in ("tokens", "floats"))
        self._note_revealing(Packed(tokens, floats, places), np.arange(len(sample)))

    # The columns of a block.

    def _maker(self, name: str) -> Make:
        """Return what makes a column of the packed rows."""
        assert self._log is not None
        if name == SCENARIO_FIELD:
            return self._scenario
        if name in self._ids:
            return partial(self._tokens, name)
        tasks = {task.label_field: task for task in self.schema.tasks}
        return partial(self._task_labels, tasks[name]) if name in tasks else partial(self._feature, name)

    def _tokens(self, field: str, rows: slice, stays: np.ndarray | None) -> np.ndarray:
        assert self._log is not None
        return self._ids[field][self._log.take(field, rows, stays)]  # type: ignore[no-any-return]

    def _numbers(self, field: str, rows: slice, stays: np.ndarray | None) -> np.ndarray:
        """Return the numbers of a column, the mean where there is none, float64."""
        assert self._log is not None
        values = self._log.take(field, rows, stays)
        return np.where(np.isnan(values), self._stats[field].mean, values) if self._stats[field].missing else values

    def _feature(self, field: str, rows: slice, stays: np.ndarray | None) -> np.ndarray:
        """Return a column of numbers as RecBole has it, a numerical feature beside a 1."""
        values, stats = self._numbers(field, rows, stays), self._stats[field]
        if field in self._normalised:
            low, high = stats.low, stats.high
            values = (values - low) / (high - low) if high > low else np.ones_like(values)
        with np.errstate(over="ignore"):
            single = values.astype(np.float32)
        is_input = field in (self.config["numerical_features"] or [])
        return np.stack([single, np.ones_like(single)], axis=-1) if is_input else single

    def _task_labels(self, task: Task, rows: slice, stays: np.ndarray | None) -> np.ndarray:
        assert self._log is not None
        values = self._log.take(task.field, rows, stays)
        if task.field in self._log.tokens:
            values = self._numbers_of_tokens(task.field)[values]
        return task.labels(values)  # type: ignore[arg-type]

    def _numbers_of_tokens(self, field: str) -> np.ndarray:
        """Return the numbers that tokens are, by code (V + 1,); the last is that of no token."""
        assert self._log is not None
        if field not in self._token_numbers:
            self._token_numbers[field] = np.array([*map(float, self._log.tokens[field].tokens), np.nan])
        return self._token_numbers[field]

    def _scenario(self, rows: slice, stays: np.ndarray | None) -> np.ndarray:
        """Return the scenarios of rows, wherever they are kept."""
        assert self._log is not None
        declared = self.schema.scenario
        if self.field2source[SCENARIO_FIELD] != FeatureSource.INTERACTION:
            table, key = self._scenario_table()
            return table[self._tokens(key, rows, stays)]  # type: ignore[no-any-return]
        if SCENARIO_FIELD in self._ids:
            return self._ids[SCENARIO_FIELD][self._log.take(str(declared.field), rows, stays)]  # type: ignore[no-any-return]
        if declared.field is None:
            return np.ones(rows.stop - rows.start if stays is None else np.count_nonzero(stays), dtype=np.int32)
        codes, values = pd.factorize(self._log.take(declared.field, rows, stays))
        return declared.assign([*values, None], self.scenario_names)[codes]

    def _scenario_table(self) -> tuple[np.ndarray, str]:
        """Return the scenario of every user or item by id, and the field of that id."""
        if self.field2source[SCENARIO_FIELD] == FeatureSource.USER:
            return np.asarray(self.user_feat[SCENARIO_FIELD]), self.uid_field
        return np.asarray(self.item_feat[SCENARIO_FIELD]), self.iid_field


class _ReadError(Exception):
    """A table that cannot be read, or a disk that cannot be written: there is no other way to go on."""

    def __init__(self, cause: InputError) -> None:
        super().__init__(str(cause))
        self.cause = cause
