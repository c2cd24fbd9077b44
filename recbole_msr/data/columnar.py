"""RecBole's Dataset with columns of numbers where it has a Python string a row; its results, to the bit.

But for what it reads: a cell is text as it stands in the file, and is missing only if it is empty.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from recbole.data.dataset import Dataset
from recbole.data.interaction import Interaction
from recbole.utils import FeatureSource, FeatureType

from recbole_msr.data.atomic import Table, line_number, read_header, read_table
from recbole_msr.data.core_filter import CoreSide, filter_to_core
from recbole_msr.data.rows import SelectedRows
from recbole_msr.data.split_rows import LEFT_OUT, leave_one_out_cuts, ratio_cuts, split_groups
from recbole_msr.data.vocabulary import TokenIds, Vocabularies, token_array
from recbole_msr.errors import InputError, nearest

EVERY_NUMBER = [("[", 0.0, float("inf"), ")")]
"""RecBole's default interval of numbers of interactions, as it reads it."""

PADDING = "[PAD]"
"""RecBole's token with the id 0, which stands for no value."""

_LARGE_TABLE = 64 << 20
"""Bytes from which a table of padded sequences is worth a warning, if ..."""

_MOSTLY_PADDING = 10
"""... it has so many times more places than values."""

logger = logging.getLogger(__name__)


class ColumnarDataset(Dataset):
    """RecBole's `Dataset`, reading, filtering, mapping to ids and splitting without Python objects for rows.

    Tokens are categorical until they become ids, which changes no result of RecBole's own filters. Its steps that go
    through the rows one by one stand here again, over arrays. A split moves row numbers, not rows.
    """

    inter_feat: Any
    user_feat: Any
    item_feat: Any
    field2id_token: Any
    field2token_id: Any

    def _get_preset(self) -> None:
        super()._get_preset()
        self.field2id_token = Vocabularies()
        self.field2token_id = TokenIds(self.field2id_token)
        self._numerical: dict[tuple[str, str], np.ndarray] = {}
        self._times: np.ndarray | None = None

    def _load_feat(self, filepath: str, source: Any) -> pd.DataFrame | None:
        """Read the columns of a file that are to be loaded; what RecBole keeps of them is kept.

        Raises:
            InputError: the file cannot be read; the message names the file and the line.
        """
        load, unload = self._get_load_and_unload_col(source)
        if load == set():
            return None
        separator, encoding = self.config["field_separator"], self.config["encoding"]
        header = read_header(filepath, separator, encoding)
        self._note_unlisted(filepath, source, header)
        kinds = {
            field: kind
            for field, kind in header.items()
            if (load is None or field in load) and (unload is None or field not in unload)
        }
        if not kinds:
            logger.warning("no column of %s is loaded: load_col and unload_col name none of its fields", filepath)
            return None
        for field, kind in kinds.items():
            self._enter_field(field, kind, source, filepath)
        table = read_table(filepath, separator, encoding, header, kinds)
        for field, kind in kinds.items():
            if kind.value.endswith("seq"):
                table.frame[field] = self._sequences(field, table.frame[field], filepath)
            elif kind == FeatureType.TOKEN and PADDING in table.frame[field].cat.categories:
                self._refuse_padding(field, filepath, int((table.frame[field] == PADDING).argmax()))
        self._note_table(filepath, source, table)
        return table.frame

    def _note_unlisted(self, filepath: str, source: Any, header: Any) -> None:
        """Warn of a list of columns that names one which the file does not have."""
        suffix = getattr(source, "value", source)
        for key in ("load_col", "unload_col"):
            listed = (self.config[key] or {}).get(suffix) or ()
            for field in () if listed == "*" else listed:
                if field not in header:
                    name, hint = Path(filepath).name, nearest(str(field), header) or ";"
                    self._note(f"{key}: {name} has no field '{field}'{hint} it has {', '.join(header)}")

    def _enter_field(self, field: str, kind: FeatureType, source: Any, filepath: str) -> None:
        own = {FeatureSource.USER: self.uid_field, FeatureSource.ITEM: self.iid_field}
        former_source = self.field2source.get(field)
        if former_source not in (None, source) and own.get(source) != field:
            other = {FeatureSource.USER_ID: "user", FeatureSource.ITEM_ID: "item"}.get(former_source, former_source)
            raise InputError(
                f"{filepath}: field '{field}' is in the {getattr(other, 'value', other)} file too; rename one of them, "
                "or leave one out (load_col, unload_col)"
            )
        self.field2source[field], self.field2type[field] = source, kind
        if not kind.value.endswith("seq"):
            self.field2seqlen[field] = 1
        if "float" in kind.value:
            self.field2bucketnum[field] = 2

    def _sequences(self, field: str, cells: pd.Series, filepath: str) -> pd.Series:
        """Return the values of every cell as an array of tokens or numbers; sets the field's length."""
        separator, kind = self.config["seq_separator"], self.field2type[field]
        limit = (self.config["seq_len"] or {}).get(field)
        if limit is not None and (not isinstance(limit, int) or limit < 1):
            raise InputError(f"seq_len: '{field}' must keep at least 1 value of a sequence, got {limit!r}")
        rows = np.empty(len(cells), dtype=object)
        same: dict[str, str] = {}  # a token is kept once, not once a row
        for row, cell in enumerate(cells):
            values = [same.setdefault(value, value) for value in cell.split(separator) if value]
            if kind == FeatureType.TOKEN_SEQ:
                rows[row] = np.array(values, dtype=object)
                continue
            try:
                rows[row] = np.array([float(value) for value in values])
            except ValueError as error:
                raise InputError(
                    f"{filepath}, line {line_number(filepath, row, self.config['encoding'])}: '{field}' is a column of "
                    f"sequences of numbers, but holds '{cell[:80]}'"
                ) from error
        if kind == FeatureType.TOKEN_SEQ and PADDING in same:
            self._refuse_padding(field, filepath, next(row for row, tokens in enumerate(rows) if PADDING in tokens))
        lengths = np.array([len(values) for values in rows])
        longest = int(lengths.max())
        if longest == 0:
            raise InputError(
                f"{filepath}: every cell of the column '{field}' is empty; leave it out, for instance with "
                f"unload_col: {{{Path(filepath).suffix[1:]}: [{field}]}}"
            )
        if limit is not None and limit < longest:
            for row in np.flatnonzero(lengths > limit).tolist():
                rows[row] = rows[row][:limit]
            longest = limit
        self.field2seqlen[field] = longest
        self._note_padding(field, np.minimum(lengths, longest), filepath)
        return pd.Series(rows, dtype=object)

    def _note_padding(self, field: str, lengths: np.ndarray, filepath: str) -> None:
        """Warn of one long sequence to which all others are padded."""
        longest, size = int(lengths.max()), 8 * len(lengths) * int(lengths.max())
        if size < _LARGE_TABLE or longest * len(lengths) < _MOSTLY_PADDING * lengths.sum():
            return
        usual = max(1, int(np.percentile(lengths, 99)))
        line = line_number(filepath, int(lengths.argmax()), self.config["encoding"])
        self._note(
            f"{Path(filepath).name}, line {line}: '{field}' holds a sequence of {longest} values, where 99 of 100 rows "
            f"have at most {usual}; every row is padded to the longest, which takes {size / 2**20:.0f} MiB: "
            f"seq_len: {{{field}: {usual}}} keeps the first {usual} of each"
        )

    def _refuse_padding(self, field: str, filepath: str, row: int) -> None:
        raise InputError(
            f"{filepath}, line {line_number(filepath, row, self.config['encoding'])}: '{field}' is '{PADDING}', which "
            "stands for no value at all in RecBole; give it another name"
        )

    def _note_table(self, filepath: str, source: Any, table: Table) -> None:
        """Note a file that was read; for a subclass."""

    def _note(self, warning: str) -> None:
        """Warn of something in the data; a subclass also reports it."""
        logger.warning("%s", warning)

    def _filter_by_inter_num(self) -> None:
        """RecBole's k-core filter, counting numbers instead of strings."""
        sides = []
        for name, field in (("user", self.uid_field), ("item", self.iid_field)):
            interval = self._parse_intervals_str(self.config[f"{name}_inter_num_interval"])
            column = self.inter_feat.get(field)
            if column is None or not is_categorical(column) or (interval is not None and len(interval) != 1):
                super()._filter_by_inter_num()
                return
            if interval is not None and interval != EVERY_NUMBER:
                feat, codes = getattr(self, f"{name}_feat"), column.cat.codes.to_numpy()
                side = self._core_side(interval, column.cat.categories, codes.__getitem__, feat, field)
                sides.append((name, feat, side))
        stays = np.ones(len(self.inter_feat), dtype=bool)
        filter_to_core([side for _, _, side in sides], stays)
        if not stays.all():
            self.inter_feat = self.inter_feat[stays]
        for name, feat, side in sides:
            if feat is not None and not side.in_table.all():
                setattr(self, f"{name}_feat", feat[side.in_table])
        return None

    def _core_side(
        self, interval: Any, tokens: Any, codes: Callable[[slice], np.ndarray], feat: Any, field: str
    ) -> CoreSide:
        """Return users or items for the filter by numbers of interactions.

        Args:
            interval: the numbers that are right, as RecBole reads them.
            tokens: by code, an index.
            codes: of the interactions.
            feat: the users' or items' own table; None where there is none.
            field: their ids in it.
        """
        of_table = tokens.get_indexer([] if feat is None else feat[field].astype(object))
        within = partial(self._within_intervals, intervals=interval)
        return CoreSide(len(tokens), codes, of_table, interval[0][1], within)

    def _remap(self, remap_list: list[Any]) -> None:
        """Give tokens RecBole's ids: numbered as they first appear, over all columns of the list."""
        if not remap_list:
            return
        if not all(kind == FeatureType.TOKEN and is_categorical(feat[field]) for feat, field, kind in remap_list):
            self._remap_sequences(remap_list)
            return
        vocabulary = pd.Index([], dtype=object)
        for feat, field, _ in remap_list:
            column = feat[field].cat
            # Filters may have taken tokens away, or changed which comes first.
            codes, present = _by_appearance(column.codes.to_numpy(), len(column.categories))
            tokens = column.categories[present]
            if len(vocabulary):
                ids = vocabulary.get_indexer(tokens)
                ids[ids < 0] = np.arange(len(vocabulary), len(vocabulary) + int((ids < 0).sum()))
                vocabulary = vocabulary.append(tokens[ids >= len(vocabulary)])
                codes = np.append(ids, -1)[codes]
            else:
                vocabulary = tokens
            feat[field] = codes.astype(np.int32 if feat is self.inter_feat else np.int64) + 1
        self._keep_vocabulary(remap_list, vocabulary)

    def _remap_sequences(self, remap_list: list[Any]) -> None:
        for feat, field, _ in remap_list:
            if is_categorical(feat[field]):
                feat[field] = feat[field].astype(object)
        tokens, ends = self._concat_remaped_tokens(remap_list)
        ids, vocabulary = pd.factorize(tokens)
        for (feat, field, kind), own in zip(remap_list, np.split(ids + 1, ends), strict=True):
            if kind == FeatureType.TOKEN:
                feat[field] = own
            else:
                feat[field] = np.split(own, np.cumsum(feat[field].map(len))[:-1])
        self._keep_vocabulary(remap_list, vocabulary)

    def _keep_vocabulary(self, remap_list: list[Any], tokens: Any) -> None:
        vocabulary = token_array([PADDING, *np.asarray(tokens, dtype=object).tolist()])
        for _, field, _ in remap_list:
            if field not in self.field2id_token:
                self.field2id_token[field] = vocabulary

    def num(self, field: str) -> int:
        """Return the number of values of a field, padding included."""
        tokens = self.field2type.get(field) in (FeatureType.TOKEN, FeatureType.TOKEN_SEQ)
        if tokens and isinstance(self.field2id_token, Vocabularies):
            return self.field2id_token.size(field)
        return int(super().num(field))

    def _discretization(self) -> None:
        """RecBole's; the pair of a number and a 1 that it makes of a numerical feature is a list a row there."""
        features = self.config["numerical_features"] or []
        plain = [
            field
            for field in dict.fromkeys(features)
            if field not in (self.config["discretization"] or {}) and self.field2type.get(field) == FeatureType.FLOAT
        ]
        for field in plain:
            for name in self.feat_name_list:
                feat = getattr(self, name)
                if field in feat:
                    numbers = feat[field].to_numpy().astype(np.float32)
                    self._numerical[name, field] = np.stack([numbers, np.ones_like(numbers)], axis=-1)
        self.config["numerical_features"] = [field for field in features if field not in plain]
        try:
            super()._discretization()
        finally:
            self.config["numerical_features"] = features

    def _fill_nan(self) -> None:
        super()._fill_nan()
        # As they were read: RecBole makes float32 of them, which rounds seconds since 1970 to 128 of them.
        if self.time_field in self.inter_feat and self.field2type[self.time_field] == FeatureType.FLOAT:
            self._times = self.inter_feat[self.time_field].to_numpy()

    def _change_feat_format(self) -> None:
        exact = {}
        if self._times is not None and not np.array_equal(self._times.astype(np.float32), self._times):
            exact[self.time_field] = torch.from_numpy(self._times.copy())
        self._times = None
        for name in self.feat_name_list:
            feat, columns = getattr(self, name), {}
            for field in list(feat):
                columns[field] = self._tensor(name, feat, field)
                if name == "inter_feat":
                    del feat[field]  # its memory is given back before the next column is made
            setattr(self, name, SelectedRows(columns, exact=exact) if name == "inter_feat" else Interaction(columns))
        self._numerical = {}

    def _tensor(self, name: str, feat: pd.DataFrame, field: str) -> torch.Tensor:
        if (name, field) in self._numerical:
            return torch.from_numpy(self._numerical.pop((name, field)))
        kind, values = self.field2type[field], feat[field].to_numpy()
        if kind == FeatureType.TOKEN and values.dtype == np.int32:
            return torch.from_numpy(values.copy())
        if kind == FeatureType.FLOAT and field not in self.config["numerical_features"] and values.dtype.kind == "f":
            with np.errstate(over="ignore"):  # no input of a model is beyond float32
                return torch.from_numpy(values.astype(np.float32))
        column: torch.Tensor = self._dataframe_to_interaction(feat[[field]])[field]
        return column

    def split_by_ratio(self, ratios: Sequence[float], group_by: str | None = None) -> list[Dataset]:
        """RecBole's, without a list of row numbers."""
        shares = [ratio / sum(ratios) for ratio in ratios]
        ends = partial(self._calcu_split_ids, ratios=shares)
        if group_by is None:
            parts = np.split(np.arange(len(self.inter_feat)), ends(len(self.inter_feat)))
        else:
            parts = split_groups(self.inter_feat[group_by].numpy(), ratio_cuts(ends))
        self._drop_unused_col()
        return [self.copy(self.inter_feat[part]) for part in parts]

    def leave_one_out(self, group_by: str, leave_one_mode: str) -> list[Dataset]:
        """RecBole's, without a list of row numbers."""
        if leave_one_mode not in LEFT_OUT:
            raise InputError(f"eval_args: split: {{LS: {leave_one_mode}}} is none of {', '.join(LEFT_OUT)}")
        parts = split_groups(self.inter_feat[group_by].numpy(), leave_one_out_cuts(leave_one_mode))
        self._drop_unused_col()
        return [self.copy(self.inter_feat[part]) for part in parts]

    def time_based_split(self, ratios: Sequence[float], group_by: str) -> list[Dataset]:
        """RecBole's, by the times as they were read; the rows are in their order already."""
        times = self.inter_feat.numbers(self.time_field).numpy()
        shares = [ratio / sum(ratios) for ratio in ratios]
        is_test = times > np.percentile(times, 100 * (1 - shares[-1]))
        groups = self.inter_feat[group_by].numpy()
        rows = np.argsort(pd.factorize(groups)[0], kind="stable")
        before, test = rows[~is_test[rows]], rows[is_test[rows]]
        train, valid = split_groups(
            groups[before], lambda sizes: (sizes * (shares[0] / (1 - shares[2]))).astype(np.int64)[:, None]
        )
        self._drop_unused_col()
        return [self.copy(self.inter_feat[part]) for part in (before[train], before[valid], test)]


def is_categorical(column: Any) -> bool:
    """Return whether a column is kept as codes and categories."""
    return isinstance(column.dtype, pd.CategoricalDtype)


def _by_appearance(codes: np.ndarray, categories: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes (N,) numbered again as they first appear, -1 staying -1, and which old code each new one was."""
    highest = np.maximum.accumulate(codes) if len(codes) else codes
    if len(codes) and highest[0] <= 0 and highest[-1] == categories - 1 and (np.diff(highest) <= 1).all():
        return codes, np.arange(categories)
    new, old = pd.factorize(codes)
    missing = np.flatnonzero(old < 0)
    if len(missing):
        new = np.where(new == missing[0], -1, new - (new > missing[0]))
        old = np.delete(old, missing)
    return new, old
