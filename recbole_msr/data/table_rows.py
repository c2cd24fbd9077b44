"""Which row of an embedding table each id of a field reads: rare values share one, or values share rows by their hash.

`min_count: {item_id: 5}` leaves a row to each value with at least 5 training rows; all others read row 0, the unknown
vector. `hash_buckets: {user_id: 1000000}` gives every value, known or new, the row of its token's hash. RecBole's ids
stay what they are: items are ranked, users told apart and tables joined by them as ever.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from recbole.utils import FeatureSource, FeatureType
from torch import Tensor

from recbole_msr.data.occurrence import column_of
from recbole_msr.errors import InputError

MIN_COUNT, HASH_BUCKETS = "min_count", "hash_buckets"
_TOKENS = (FeatureType.TOKEN, FeatureType.TOKEN_SEQ)


@dataclass(frozen=True)
class TableRows:
    """The rows of one field's table.

    Attributes:
        rows: by id, the row of each value (V,); 0 for the ids without one of their own, among them id 0.
        size: the number of rows; row 0 is that of a missing or unknown value.
        is_hashed: whether rows are buckets of a hash: a value beyond the vocabulary then has the id V + its bucket.
    """

    rows: Tensor
    size: int
    is_hashed: bool = False


def bucket_of(token: str, buckets: int) -> int:
    """Return the bucket of a token, from 0: the same in every process, on every machine.

    It is the BLAKE2b hash of the token's UTF-8, 8 bytes long and read with the lowest byte first, modulo the number of
    buckets.

    >>> bucket_of("u1", 1000)
    130
    """
    digest = hashlib.blake2b(token.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") % buckets


def declared_rows(config: Any) -> dict[str, dict[str, int]]:
    """Return the fields of `min_count` and of `hash_buckets`, by key, with their numbers.

    Raises:
        InputError: a field has both.
    """
    found: dict[str, dict[str, int]] = {key: dict(config[key] or {}) for key in (MIN_COUNT, HASH_BUCKETS)}
    for field in found[MIN_COUNT]:
        if field in found[HASH_BUCKETS]:
            raise InputError(
                f"min_count and hash_buckets both name '{field}': rare values either share the unknown vector or are "
                "hashed like all others; take it out of one"
            )
    return found


def check_fields(config: Any, kinds: Mapping[str, Any], no_features: Iterable[str], explain: Any) -> None:
    """Refuse fields of `min_count` and `hash_buckets` that are no tokens, or no features.

    Args:
        config: RecBole's Config of the run.
        kinds: the type of each field that was read.
        no_features: fields that a model does not see: those of labels, and of the scenario where it is not kept.
        explain: says of a field that it is not there, and which are.

    Raises:
        InputError: the message names key and field.
    """
    left_out = set(no_features)
    for key, fields in declared_rows(config).items():
        for field in fields:
            if field not in kinds:
                raise InputError(f"{key}: {explain(field)}")
            if kinds[field] not in _TOKENS:
                raise InputError(
                    f"{key}: '{field}' is a {kinds[field].value}, and only values of token and token_seq fields have "
                    "vectors of their own"
                )
            if field in left_out:
                raise InputError(f"{key}: '{field}' is no feature: a label or the scenario is read from it")


def make_table_rows(config: Any, dataset: Any, n_train: int) -> tuple[dict[str, TableRows], dict[str, Any]]:
    """Return the rows of each field that `min_count` or `hash_buckets` names, and a report for the summary of a run.

    Args:
        config: RecBole's Config of the run.
        dataset: the dataset, with packed rows, training rows first.
        n_train: the number of training rows.
    """
    declared, found, report = declared_rows(config), {}, {}
    for field, least in declared[MIN_COUNT].items():
        counts = training_counts(dataset, field, n_train)
        stays = counts >= least
        stays[0] = False
        rows = torch.where(stays, stays.cumsum(0), 0)
        found[field] = TableRows(rows, int(stays.sum()) + 1)
        rare = counts[1:][~stays[1:]]
        report[field] = {
            MIN_COUNT: least,
            "values": len(counts) - 1,
            "rare_values": len(rare),
            "rare_training_rows": int(rare.sum()),
        }
    for field, buckets in declared[HASH_BUCKETS].items():
        tokens = dataset.field2id_token[field][1:].tolist()
        rows = torch.tensor([0, *(1 + bucket_of(str(token), buckets) for token in tokens)])
        found[field] = TableRows(rows, buckets + 1, is_hashed=True)
        report[field] = {
            HASH_BUCKETS: buckets,
            "values": len(tokens),
            "buckets_used": int(rows[1:].unique().numel()),
        }
    return found, report


def training_counts(dataset: Any, field: str, n_train: int) -> Tensor:
    """Return how many training rows have each id of a field (V,), by themselves or through their user or item.

    In a sequence a value counts as often as it stands there.

    Args:
        dataset: a dataset with its rows, training rows first.
        field: a token or token_seq field.
        n_train: the number of training rows.
    """
    tables = {
        FeatureSource.USER: (dataset.uid_field, dataset.user_feat),
        FeatureSource.ITEM: (dataset.iid_field, dataset.item_feat),
    }
    key, table = tables.get(dataset.field2source[field], (field, None))
    values = column_of(dataset.inter_feat, key)[:n_train]
    length = dataset.num(field)
    if table is None:
        return torch.bincount(values.reshape(-1), minlength=length)
    times = torch.bincount(values, minlength=len(table))
    values = table[field].reshape(len(table), -1)
    weights = times.unsqueeze(1).expand_as(values).reshape(-1)
    # float64 counts exactly up to 2^53 rows
    return torch.bincount(values.reshape(-1), weights=weights.double(), minlength=length).long()


def describe(report: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a line for each field of a report."""
    lines = []
    for field, of_field in report.items():
        if MIN_COUNT in of_field:
            line = (
                f"{field}: {of_field['rare_values']} of {of_field['values']} values have fewer than "
                f"{of_field[MIN_COUNT]} training rows ({of_field['rare_training_rows']} rows together) and share the "
                "unknown vector"
            )
        else:
            line = (
                f"{field}: {of_field['values']} values are hashed to {of_field['buckets_used']} of "
                f"{of_field[HASH_BUCKETS]} buckets"
            )
        lines.append(line)
    return lines


def table_size(dataset: Any, field: str) -> int:
    """Return the number of rows of a field's embedding table."""
    own = getattr(dataset, "table_rows", {}).get(field)
    return int(dataset.num(field)) if own is None else own.size


def as_tensors(table_rows: Mapping[str, TableRows]) -> tuple[dict[str, Tensor], dict[str, list[int]]]:
    """Return what `from_tensors` takes: the rows by field, and of each the size and whether it is hashed."""
    tensors = {field: own.rows.to(torch.int32) for field, own in table_rows.items()}
    return tensors, {field: [own.size, int(own.is_hashed)] for field, own in table_rows.items()}


def from_tensors(tensors: Mapping[str, Tensor], sizes: Mapping[str, Any]) -> dict[str, TableRows]:
    """Return the rows by field of what `as_tensors` gave.

    Raises:
        ValueError: they do not fit each other.
    """
    found = {}
    for field, (size, is_hashed) in sizes.items():
        rows = tensors[field].long()
        if not isinstance(size, int) or not 0 <= int(rows.min()) <= int(rows.max()) < size:
            raise ValueError(f"the rows of '{field}' are not below {size}")
        found[field] = TableRows(rows, size, bool(is_hashed))
    return found
