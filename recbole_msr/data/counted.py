"""A RecBole dataset that counts its rows: those that are read, and those that a filter leaves out, by its rule."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from recbole.utils import FeatureType

from recbole_msr.data.atomic import Table, line_number, read_header
from recbole_msr.data.columnar import ColumnarDataset
from recbole_msr.data.rows_report import describe_left_out
from recbole_msr.data.tables.placed import PlacedTable
from recbole_msr.errors import InputError

KNOWN_IDS = "filter_inter_by_user_or_item"
TOO_FEW = ("user or item has too few or too many interactions", "user_inter_num_interval, item_inter_num_interval")
"""The rule of the filter by numbers of interactions, and its keys."""


class CountedDataset(ColumnarDataset):
    """RecBole's `Dataset` with its filters in their order, each of them counted; errors name the file and its line.

    Attributes:
        data_report: of every file the rows read, used and left out, by rule; and what is to be warned of.
    """

    data_report: dict[str, Any]

    def __init__(self, config: Any) -> None:
        self.data_report = {"files": {}, "warnings": []}
        self._short_rows: list[str] = []
        self._split_report: dict[str, Any] = {}
        super().__init__(config)

    def _note_table(self, filepath: str, source: Any, table: Table) -> None:
        name, suffix = Path(filepath).name, getattr(source, "value", source)
        counts = self.data_report["files"].setdefault(suffix, {"file": "", "read": 0, "used": 0, "dropped": []})
        counts["file"] = f"{counts['file']}, {name}" if counts["file"] else name  # splits that are ready made
        counts["read"] += len(table.frame)
        if table.short_rows:
            lines = "1 line has" if table.short_rows == 1 else f"{table.short_rows} lines have"
            self._short_rows.append(
                f"{name}: {lines} fewer cells than the first line names (the first is line {table.first_short}); "
                "what is lacking is taken as empty"
            )
            self._note(self._short_rows[-1])

    def _note(self, warning: str) -> None:
        self.data_report["warnings"].append(warning)

    def _load_user_or_item_feat(self, token: str, dataset_path: str, source: Any, field_name: str) -> Any:
        feat = super()._load_user_or_item_feat(token, dataset_path, source, field_name)
        if feat is not None:
            repeated = self.data_report["files"][source.value]["read"] - len(feat)
            self._count_left_out(source.value, repeated, f"{getattr(self, field_name)} stands in an earlier row", None)
        return feat

    def _count_left_out(self, table: str, rows: int, rule: str, key: str | None, example: str = "") -> None:
        if rows:
            dropped = {"rule": rule, "key": key, "rows": rows} | ({"example": example} if example else {})
            self.data_report["files"][table]["dropped"].append(dropped)

    def _leave_out(self, table: str, goes: np.ndarray, rule: str, key: str | None, example: str = "") -> None:
        if goes.any():
            self._count_left_out(table, int(goes.sum()), rule, key, example)
            setattr(self, f"{table}_feat", getattr(self, f"{table}_feat")[~goes])

    @contextmanager
    def _counting(self, rule: str, key: str) -> Iterator[None]:
        """Count the rows that a filter of RecBole takes away."""
        before = {name: len(getattr(self, name)) for name in self.feat_name_list}
        yield
        for name, rows in before.items():
            table = name.removesuffix("_feat")
            self._count_left_out(table, rows - len(getattr(self, name)), rule, key)

    def _data_filtering(self) -> None:
        """RecBole's filters in their order, counted."""
        self._filter_nan_user_or_item()
        with self._counting("user and item are those of another row", "rm_dup_inter"):
            self._remove_duplication()
        with self._counting("a value is not among those to keep", "val_interval"):
            self._filter_by_field_value()
        self._filter_inter_by_user_or_item()
        with self._counting(*TOO_FEW):
            self._filter_by_inter_num()
        self._reset_index()

    def _filter_nan_user_or_item(self) -> None:
        for side, field in (("user", self.uid_field), ("item", self.iid_field)):
            for table in ("inter", side):
                feat = getattr(self, f"{table}_feat")
                if feat is None:
                    continue
                if field not in feat:
                    path = self._file(table)
                    if field in read_header(str(path), self.config["field_separator"], self.config["encoding"]):
                        raise InputError(f"load_col: {table} must list '{field}', the {side}s' ids ({path} has it)")
                    raise InputError(f"{path} has no column '{field}' ({side.upper()}_ID_FIELD)")
                goes = feat[field].isna().to_numpy()
                if goes.any():
                    line = self._line(table, int(feat.index[goes][0]))
                    self._leave_out(table, goes, f"{field} is empty", None, line)

    def _filter_inter_by_user_or_item(self) -> None:
        if self.config[KNOWN_IDS] is not True:
            return
        for side, field in (("user", self.uid_field), ("item", self.iid_field)):
            feat = getattr(self, f"{side}_feat")
            if feat is None:
                continue
            column = self.inter_feat[field]
            goes = ~column.isin(feat[field]).to_numpy()
            if goes.all() and len(goes):
                ours, theirs = (
                    ", ".join(map(repr, ids.drop_duplicates()[:3].tolist())) for ids in (column, feat[field])
                )
                raise InputError(
                    f"no {field} of {self._file('inter').name} is in {self._file(side)}: interactions have {ours}, and "
                    f"this file has {theirs}. Write the ids alike, or keep all interactions with {KNOWN_IDS}: False"
                )
            if goes.any():
                example = f"'{column[goes].iloc[0]}'"
                self._leave_out("inter", goes, f"{field} is not in {self._file(side).name}", KNOWN_IDS, example)

    def _reset_index(self) -> None:
        self._check_numbers()
        for name in self.feat_name_list:
            if getattr(self, name).empty:
                counts = self.data_report["files"][name.removesuffix("_feat")]
                why = ", ".join(map(describe_left_out, counts["dropped"]))
                raise InputError(f"no row of {counts['file']} is left: {counts['read']} were read, left out were {why}")
        super()._reset_index()

    def _check_numbers(self) -> None:
        """Refuse a numerical feature that cannot be learnt from: with infinite or no numbers in it."""
        for field in dict.fromkeys(self.config["numerical_features"] or []):
            if self.field2type.get(field) not in (FeatureType.FLOAT, FeatureType.FLOAT_SEQ):
                continue
            (feat,) = self.field2feats(field)
            table = getattr(self.field2source[field], "value", self.field2source[field])
            cells = feat[field].to_numpy()
            single = self.field2type[field] == FeatureType.FLOAT
            largest = np.abs(cells) if single else np.array([np.abs(cell).max(initial=0) for cell in cells])
            if single and np.isnan(largest).all():
                raise InputError(
                    f"{self._file(table)}: the numerical feature '{field}' is empty in every row; leave it out of "
                    "numerical_features"
                )
            beyond = np.flatnonzero(largest > np.finfo(np.float32).max)
            if len(beyond):
                raise InputError(
                    f"{self._place(int(feat.index[beyond[0]]), table)}: the numerical feature "
                    f"'{field}' is {cells[beyond[0]] if single else largest[beyond[0]]:g}, which is no number that can "
                    f"be learnt from ({len(beyond)} such rows); write a finite one, leave the cell empty, or keep to "
                    f"some values with val_interval: {{{field}: '[LOW,HIGH]'}}"
                )

    def _file(self, table: str) -> Path:
        return Path(self.dataset_path, f"{self.dataset_name}.{table}")

    def _place(self, row: int, table: str = "inter") -> str:
        """Name a row of a file: ".../shop.inter, line 12", "row 7 of events.parquet"; `row` as in `_line`."""
        line = self._line(table, row)
        return line if " of " in line else f"{self._file(table)}, {line}"

    def _line(self, table: str, row: int) -> str:
        """Name the place of a row in its file, as "line 12 of ..."; `row` counts from 0, as the file was read."""
        if table == "inter" and self.benchmark_filename_list is not None:
            return f"row {row + 1} of {self.data_report['files']['inter']['file']}"
        placed = PlacedTable.of_dataset(self.dataset_path, self.dataset_name) if table == "inter" else None
        if placed is not None:
            return placed.place(row)
        return f"line {line_number(self._file(table), row, self.config['encoding'])}"

    def row_report(self) -> dict[str, Any]:
        """Report every row: by file the rows read, used and left out, by split those used and left out.

        Every entry of `dropped` has the number of `rows`, the `rule`, and the `key` of the configuration that sets it
        (None: it cannot be set).
        """
        report = self.data_report
        rows = {"files": report["files"], "splits": self._split_report, "warnings": self._data_warnings()}
        return rows | {key: report[key] for key in ("top_scenarios", "table_rows") if key in report}

    def _data_warnings(self) -> list[str]:
        """Return the warnings about the data, and every default rule that left rows out."""
        warnings = list(self.data_report["warnings"])
        user_settings = getattr(self.config, "external_config_dict", {})
        for counts in self.data_report["files"].values():
            for dropped in counts["dropped"]:
                if dropped["key"] is None or (dropped["key"] == KNOWN_IDS and KNOWN_IDS not in user_settings):
                    example = f" (for instance {dropped['example']})" if "example" in dropped else ""
                    hint = f"; {KNOWN_IDS}: False keeps them" if dropped["key"] else ""
                    warnings.append(
                        f"{dropped['rows']} of {counts['read']} rows of {counts['file']} are left out, where "
                        f"{dropped['rule']}{example}{hint}"
                    )
        return warnings
