"""From the fields of a RecBole interaction to one input vector a row."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from recbole.utils import FeatureSource, FeatureType
from torch import Tensor, nn

from recbole_msr.config.key_table import INTERACTIONS
from recbole_msr.data.history import HistorySettings
from recbole_msr.data.occurrence import occurring
from recbole_msr.data.table_rows import TableRows, table_size
from recbole_msr.errors import InputError, nearest
from recbole_msr.layers.dropout import Dropout
from recbole_msr.layers.history import HistoryFeatures
from recbole_msr.layers.interaction import BiInteraction, CrossNetwork, Part
from recbole_msr.layers.tracing import is_exported
from recbole_msr.options import Options

_FEATURE_SOURCES = [
    FeatureSource.INTERACTION,
    FeatureSource.USER,
    FeatureSource.USER_ID,
    FeatureSource.ITEM,
    FeatureSource.ITEM_ID,
]

EXPORTED_MEANS = ".mean"
"""Ends the name of the mean vectors of a token_seq field, which an export may give beside its ids."""
INITIAL_STD = 0.01
"""Standard deviation of a fresh embedding's entries.

xavier_normal over a whole table (RecBole) shrinks with the number of values; a fixed one does not. On ml-100k
HiNet starts fastest from 0.01 and ends alike from 0.01, 0.02 and 0.05; from 0.1 it ends lower.
"""


class FeatureEmbedding(nn.Module):
    """x (B, D): the embeddings of all feature fields, concatenated, and their interactions.

    - A token field is looked up in the one table that all token fields share, each at its own offset. A
      field's index 0 stands for an unknown or missing value; its vector starts at zero, and only rows that
      have it train it.
    - A token_seq field is the mean of its tokens' vectors, padding (0) left out; an empty sequence is zero.
    - A float field counts as a feature only if `numerical_features` lists it, as in RecBole. With
      `numerical_as: raw` its value is one column of x. With `numerical_as: embedding` it is value * v, with a
      learned vector v (one a bucket where RecBole's `discretization` makes buckets).

    What no training row has (a user of the test rows alone, say) no row trains: in evaluation it is read as index 0, so
    that all such values, and those that the vocabulary lacks, come to the same.

    - With `unknown_share` a training step reads a field's unknown vector for a share of its rows, drawn anew
      (DropoutNet, Volkovs et al., NeurIPS 2017): it is learnt, and the model learns to do without the value's own. A
      history's values keep theirs.
    - With `min_count` or `hash_buckets` a field has fewer rows than values, see `data.table_rows`.

    - What `history` declares (`HistoryFeatures`) stands behind them; a given column is no other feature then.

    Fields stand in x by kind, then by name, whatever the order of columns in the files.

    An embedding is `embedding_size` K wide, or with `embedding_size_exponent` a other than 0 (`widths`)

        K_f = max(1, round(K (V_f / V)^a)),   V the largest V_f if a > 0, the smallest if a < 0

    of a field of V_f values, so that K is the widest. Every token field has a table of its own then. A float field
    without buckets has one vector and the width K. In training `embedding_dropout` drops numbers of the embeddings
    (not plain numbers, nor what a subclass adds).

    With `interaction: fm` the `BiInteraction` of all parts of x stands behind them; with `interaction: cross` x is what
    a `CrossNetwork` of `cross_layers` and `cross_rank` makes of it. A model's layers read that.

    Args:
        config: reads these keys, `numerical_features` and `numerical_as`.
        dataset: a RecBole dataset, for its fields, their types and numbers of values; its rows are those trained on.
            Without rows (a finished run's, restored) what they had comes with the weights.
        exclude: fields that are no features: labels, and the scenario.

    Attributes:
        token_fields, token_seq_fields, float_fields: names of the fields in x, in their order.
        columns: the parts of x, in their order.
        output_size: D.

    Raises:
        InputError: there is no feature field, a numerical feature cannot be used as configured, or another key has an
            impossible value.
    """

    offsets: Tensor
    """Where each token field begins in the table, (token fields,)."""
    unknown_shares: Tensor | None
    """Of `unknown_share`, (token fields,); None without."""
    seen: Tensor
    """Which values the training rows have: those of the token fields, the token_seq fields, the buckets (values,)."""

    def __init__(self, config: Any, dataset: Any, exclude: Collection[str] = ()) -> None:
        super().__init__()
        option = Options(config)
        size = option.integer("embedding_size")
        self.numerical_as = option.choice("numerical_as", ("raw", "embedding"))
        numerical = config["numerical_features"] or []
        self.token_fields: list[str] = []
        self.token_seq_fields: list[str] = []
        self.float_fields: list[str] = []
        fields_of = {
            FeatureType.TOKEN: self.token_fields,
            FeatureType.TOKEN_SEQ: self.token_seq_fields,
            FeatureType.FLOAT: self.float_fields,
        }
        histories = HistorySettings.from_config(config)
        exclude = {*exclude, *(histories.given if histories is not None else ())}
        for field in sorted(dataset.fields(source=_FEATURE_SOURCES)):
            kind = dataset.field2type[field]
            is_token = kind in (FeatureType.TOKEN, FeatureType.TOKEN_SEQ)
            if field in exclude or not (is_token or field in numerical):
                continue
            if kind == FeatureType.FLOAT_SEQ:
                raise InputError(
                    f"numerical_features lists '{field}', a float_seq, but this model takes single numbers: "
                    "store its values as one float field each, or leave it out"
                )
            fields_of[kind].append(field)
        if not (self.token_fields or self.token_seq_fields or self.float_fields):
            raise InputError("the dataset has no feature field: load some with load_col (e.g. user: [user_id, gender])")

        if self.numerical_as == "raw":
            for field in self.float_fields:
                if field in (config["discretization"] or {}):
                    raise InputError(
                        f"numerical feature '{field}' is cut into buckets by discretization, so it has no "
                        "value to use as it is: set numerical_as: embedding, or take it out of discretization"
                    )
        embedded = self.float_fields if self.numerical_as == "embedding" else []
        fields = [*self.token_fields, *self.token_seq_fields, *embedded]
        exponent = option.number("embedding_size_exponent", at_least=-1)
        self._add_rows(dataset)
        self._is_filled = False
        self._add_unknown_shares(config)
        widths = embedding_widths({field: table_size(dataset, field) for field in fields}, size, exponent)
        self._add_tables(dataset, embedded, widths, shared=not exponent)
        self._note_seen(dataset, fields)
        self.dropout = Dropout(option.number("embedding_dropout", at_least=0, below=1))
        self.columns = [Part(field, width) for field, width in widths.items()]
        self.history = HistoryFeatures(config, histories, dataset, widths) if histories is not None else None
        if self.history is not None:
            self.columns += [Part(name, width) for name, width in self.history.parts]
        if self.numerical_as == "raw":
            self.columns += [Part(field, 1, is_number=True) for field in self.float_fields]
        self.interaction: BiInteraction | CrossNetwork | None = None
        self.output_size = sum(part.width for part in self.columns)

    def _add_rows(self, dataset: Any) -> None:
        """Keep the rows that the ids of a field with `min_count` or `hash_buckets` read."""
        known: Mapping[str, TableRows] = getattr(dataset, "table_rows", {})
        self._own_rows = {
            field: known[field] for field in (*self.token_fields, *self.token_seq_fields) if field in known
        }
        for number, own in enumerate(self._own_rows.values()):
            self.register_buffer(f"rows_{number}", own.rows, persistent=False)  # the vocabulary has them

    def _add_unknown_shares(self, config: Any) -> None:
        """Keep the share of training rows that read the unknown vector of each token field, where there is one."""
        given: Mapping[str, float] = config["unknown_share"] or {}
        for field in given:
            if field not in self.token_fields:
                raise InputError(
                    f"unknown_share: '{field}' is no token field that the model reads"
                    f"{nearest(field, self.token_fields) or ';'} it reads {', '.join(self.token_fields) or 'none'}"
                )
            if field in self._own_rows and self._own_rows[field].is_hashed:
                raise InputError(
                    f"unknown_share: '{field}' has hash_buckets, where a new value reads a bucket's vector and never "
                    "the unknown one: take it out of one of the two"
                )
        shares = torch.tensor([float(given.get(field, 0.0)) for field in self.token_fields])
        self.register_buffer("unknown_shares", shares if shares.any() else None, persistent=False)

    def _some_unknown(self, rows: Tensor, field: int | slice = slice(None)) -> Tensor:
        """Return the rows of tables that a training step reads, 0, the unknown one, for a share of them.

        Args:
            rows: of one token field (B,), or of all (B, token fields).
            field: the number of the one.
        """
        if not self.training or self.unknown_shares is None:
            return rows
        return rows.masked_fill(torch.rand(rows.shape, device=rows.device) < self.unknown_shares[field], 0)

    def _add_tables(self, dataset: Any, embedded: list[str], widths: dict[str, int], shared: bool) -> None:
        n_values = [table_size(dataset, field) for field in self.token_fields]
        self.tables: nn.ModuleList | None = None
        if not shared:
            own = [nn.Embedding(table_size(dataset, field), widths[field]) for field in self.token_fields]
            for table in own:
                _initialise(table, unknown=torch.tensor([0]))
            self.tables = nn.ModuleList(own)
        elif self.token_fields:
            offsets = torch.tensor([0, *accumulate(n_values)][:-1])
            self.register_buffer("offsets", offsets, persistent=False)
            self.table = nn.Embedding(sum(n_values), widths[self.token_fields[0]])
            _initialise(self.table, unknown=offsets)
        self.seq_tables = nn.ModuleList(
            nn.EmbeddingBag(table_size(dataset, field), widths[field], mode="mean", padding_idx=0)
            for field in self.token_seq_fields
        )
        self.float_tables = nn.ModuleList(nn.Embedding(dataset.num(field), widths[field]) for field in embedded)
        for other in (*self.seq_tables, *self.float_tables):
            _initialise(other, unknown=torch.tensor([0]))

    def add_interaction(self, config: Any) -> None:
        """Add what `interaction` names, of all parts that x has by now.

        Raises:
            InputError: it is no such word, or there is nothing to interact.
        """
        option = Options(config)
        kind = option.choice("interaction", INTERACTIONS)
        if kind == "fm":
            if len(self.columns) < 2:
                raise InputError("interaction: fm multiplies features with each other, and there is one: load more")
            size = option.integer("embedding_size")
            self.interaction = BiInteraction(self.columns, size, INITIAL_STD)
            self.columns = [*self.columns, Part("interaction", size)]
        elif kind == "cross":
            rank = None if config["cross_rank"] is None else option.integer("cross_rank")
            self.interaction = CrossNetwork(self.output_size, option.integer("cross_layers"), rank)
        self.output_size = sum(part.width for part in self.columns)

    def _note_seen(self, dataset: Any, fields: list[str]) -> None:
        n_values = [table_size(dataset, field) for field in fields]
        self._starts = dict(zip(fields, [0, *accumulate(n_values)], strict=False))
        seen = torch.ones(sum(n_values), dtype=torch.bool)
        if getattr(dataset, "inter_feat", None) is not None:
            seen = torch.cat([torch.empty(0, dtype=torch.bool), *(self._occurring(dataset, field) for field in fields)])
        self.register_buffer("seen", seen)

    def _occurring(self, dataset: Any, field: str) -> Tensor:
        """Mark the rows of a field's table that a training row reads."""
        ids = occurring(dataset, field)
        own = self._own_rows.get(field)
        if own is None:
            return ids
        rows = torch.zeros(own.size, dtype=torch.bool)
        rows[own.rows[ids]] = True
        return rows

    def rows_of(self, field: str, ids: Tensor) -> Tensor:
        """Return the rows (...) of a field's table that ids (...) read.

        With `hash_buckets`, of a vocabulary of V an id beyond it is V + the bucket of a value's hash.
        """
        if field not in self._own_rows:
            return ids
        rows = getattr(self, f"rows_{list(self._own_rows).index(field)}")
        if not self._own_rows[field].is_hashed:
            return _at(rows, ids)
        last = rows.shape[0] - 1
        return torch.where(ids > last, ids - last, _at(rows, ids.clamp(max=last)))

    def known_ids(self, field: str, ids: Tensor) -> Tensor:
        """Return the ids of a field (...) with 0 in place of those beyond the vocabulary."""
        own = self._own_rows.get(field)
        return ids if own is None or not own.is_hashed else ids.masked_fill(ids >= len(own.rows), 0)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        # Runs of versions that did not note it are scored as they were trained.
        state_dict.setdefault(prefix + "seen", torch.ones_like(self.seen))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def has_seen(self, field: str, ids: Tensor) -> Tensor:
        """Return whether a training row had these ids (...) of a field that is embedded."""
        rows = self.rows_of(field, ids)
        seen = _at(self.seen, rows + self._starts[field])
        return seen if field not in self._own_rows else seen & ((rows != 0) | (ids == 0))

    def rows_in(self, other: FeatureEmbedding, ids: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """Return for every row of a table its row in the table of another embedding, of other values.

        Args:
            other: of the same fields and widths.
            ids: of each token and token_seq field the id there of each value (V_f,), 0 for one that is not there.

        Returns:
            By the name of the table's weight: rows (V,), those of the unknown vector for values that are not there, and
            whether each is the same value's.
        """
        ids = {field: self._earlier_rows(other, field, of_field) for field, of_field in ids.items()}
        same = {field: torch.cat([torch.ones(1, dtype=torch.bool), rows[1:] > 0]) for field, rows in ids.items()}
        found = {
            f"seq_tables.{number}.weight": (ids[field], same[field])
            for number, field in enumerate(self.token_seq_fields)
        }
        if self.tables is not None:
            return found | {
                f"tables.{number}.weight": (ids[field], same[field]) for number, field in enumerate(self.token_fields)
            }
        if not self.token_fields:
            return found
        starts = zip(self.token_fields, other.offsets.tolist(), strict=True)
        rows = torch.cat([ids[field] + start for field, start in starts])
        return found | {"table.weight": (rows, torch.cat([same[field] for field in self.token_fields]))}

    def _earlier_rows(self, other: FeatureEmbedding, field: str, ids: Tensor) -> Tensor:
        """Return for every row of a field's table its row in another embedding's; 0 where there is none.

        Raises:
            InputError: one of the two hashes the field, and the other does not or to other buckets.
        """
        own, theirs = self._own_rows.get(field), other._own_rows.get(field)
        hashed = [None if rows is None or not rows.is_hashed else rows.size - 1 for rows in (own, theirs)]
        if hashed[0] != hashed[1]:
            now, before = (f"{n} buckets" if n else "no hash" for n in hashed)
            raise InputError(
                f"init_from: '{field}' has {now} here, and {before} in the earlier run: give both the same hash_buckets"
            )
        if own is not None and own.is_hashed:
            return torch.arange(own.size)
        earlier = other.rows_of(field, ids.to(other.seen.device)).cpu()
        if own is None:
            return earlier
        rows = torch.zeros(own.size, dtype=torch.long)
        rows[own.rows] = earlier
        rows[0] = 0
        return rows

    @torch.no_grad()
    def take_over(self, other: FeatureEmbedding, ids: Mapping[str, Tensor]) -> None:
        """Take the vectors of the token and token_seq fields over from another embedding, of other values.

        Args:
            other: of the same fields and widths.
            ids: as for `rows_in`; a value that is not there gets the unknown vector.
        """
        own, source = dict(self.named_parameters()), dict(other.named_parameters())
        for name, (rows, _) in self.rows_in(other, ids).items():
            own[name].copy_(source[name][rows.to(source[name].device)])
        for field, of_field in ids.items():
            begin, rows = self._starts[field], self._earlier_rows(other, field, of_field)
            had = rows > 0
            if field in self._own_rows and self._own_rows[field].is_hashed:
                first = other._starts[field]
                had = other.seen[first : first + len(rows)].cpu()
            self.seen[begin : begin + len(rows)] |= had.to(self.seen.device)

    def forward(self, interaction: Any) -> Tensor:
        """Return x (B, D) of a RecBole `Interaction` of B rows."""
        return self.interact(self.vectors(interaction))

    def interact(self, x: Tensor) -> Tensor:
        """Return x (B, D) of all its parts (B, ...): with their interactions."""
        if isinstance(self.interaction, CrossNetwork):
            crossed: Tensor = self.interaction(x)
            return crossed
        return x if self.interaction is None else torch.cat([x, self.interaction(x)], dim=1)

    def vectors(self, interaction: Any) -> Tensor:
        """Return all parts of x but their interactions (B, ...)."""
        parts = self._of_tokens(interaction)
        for field in self.token_seq_fields:
            is_made = is_exported() and field + EXPORTED_MEANS in interaction
            parts.append(
                interaction[field + EXPORTED_MEANS] if is_made else self.mean_vectors(field, interaction[field])
            )
        # RecBole hands a numerical feature over as (value, bucket).
        numbers = {field: interaction[field] for field in self.float_fields}
        if self.numerical_as == "embedding":
            parts += [
                number[:, :1] * table(self._row_to_read(field, number[:, 1].long()))
                for (field, number), table in zip(numbers.items(), self.float_tables, strict=True)
            ]
        if self.history is not None:
            parts.append(self.history(interaction, self.look_up, self._with_vectors))
        if parts:
            parts = [self.dropout(torch.cat(parts, dim=1))]
        if self.numerical_as == "raw":
            parts += [number[:, :1] for number in numbers.values()]
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]

    def columns_of(self, fields: Collection[str]) -> Tensor | None:
        """Mark the columns of `vectors` that depend on some fields and on no other (D,), those of the rest not at all.

        Returns:
            A mask; None where a column depends on both: target attention pools a history for the item, say.

        Args:
            fields: the fields of items.
        """
        parts = self.columns[:-1] if isinstance(self.interaction, BiInteraction) else self.columns
        names = [part.name for part in parts]
        if len(set(names)) < len(names) or (self.history is not None and self.history.pooling == "target_attention"):
            return None
        marks = [torch.full((part.width,), self._is_of(part.name, fields), dtype=torch.bool) for part in parts]
        return torch.cat(marks)

    def _is_of(self, part: str, fields: Collection[str]) -> bool:
        return part in fields

    def look_up(self, field: str, ids: Tensor) -> Tensor:
        """Return the vectors (..., K) of ids of a token field (...), or of a token_seq field (..., S)."""
        if field in self.token_seq_fields:
            vectors = self.mean_vectors(field, ids.reshape(-1, ids.shape[-1]))
            return vectors.view(*ids.shape[:-1], vectors.shape[-1])
        ids, number = self._row_to_read(field, ids), self.token_fields.index(field)
        found: Tensor = self.table(ids + self.offsets[number]) if self.tables is None else self.tables[number](ids)
        return found

    def mean_vectors(self, field: str, ids: Tensor) -> Tensor:
        """Return the mean vectors (B, K) of ids of a token_seq field (B, S), unknown ones left out."""
        return _mean_of_bag(self.seq_tables[self.token_seq_fields.index(field)], self._read_as(field, ids))

    def _of_tokens(self, interaction: Any) -> list[Tensor]:
        """Return the embeddings of the token fields, one after the other in one tensor or in several."""
        if self.tables is not None:
            return [
                table(self._some_unknown(self._row_to_read(field, interaction[field]), number))
                for number, (field, table) in enumerate(zip(self.token_fields, self.tables, strict=True))
            ]
        if not self.token_fields:
            return []
        ids = torch.stack([self.rows_of(field, interaction[field]) for field in self.token_fields], dim=1)
        places = self._some_unknown(ids) + self.offsets
        if not (self.training or self._is_filled):
            places = torch.where(_at(self.seen, places), places, self.offsets)
        return [self.table(places).flatten(1)]

    def _read_as(self, field: str, ids: Tensor) -> Tensor:
        """Return the rows of a field's table that ids (...) read; in evaluation 0 for those of no training row."""
        rows = self.rows_of(field, ids)
        return rows if self.training else rows.masked_fill(~_at(self.seen, rows + self._starts[field]), 0)

    def _row_to_read(self, field: str, ids: Tensor) -> Tensor:
        """Return the same, but for tables whose unseen rows are filled the rows themselves."""
        return self.rows_of(field, ids) if self._is_filled and not self.training else self._read_as(field, ids)

    @torch.no_grad()
    def fill_unseen(self) -> None:
        """Give the rows of the tables that no training row reads the unknown vector, in place.

        In evaluation single values then need not be looked up among `seen`; those of a sequence still are, as unknown
        ones are left out of its mean.
        """
        if self.tables is None and self.token_fields:
            sizes = self.offsets.diff(append=self.offsets.new_tensor([len(self.table.weight)]))
            unseen = ~self.seen[: len(self.table.weight)]
            self.table.weight[unseen] = self.table.weight[self.offsets.repeat_interleave(sizes)][unseen]
        tables: dict[str, Any] = dict(zip(self.token_fields, self.tables, strict=True)) if self.tables else {}
        if self.numerical_as == "embedding":
            tables |= zip(self.float_fields, self.float_tables, strict=True)
        for field, table in tables.items():
            begin = self._starts[field]
            table.weight[~self.seen[begin : begin + len(table.weight)]] = table.weight[0].clone()
        self._is_filled = True

    def _with_vectors(self, field: str, ids: Tensor) -> Tensor:
        """Return the ids of a field (...) with 0 in place of those that read the unknown vector."""
        return ids.masked_fill(self._read_as(field, ids) == 0, 0)


def _at(values: Tensor, places: Tensor) -> Tensor:
    """Return values (V,) at places (...), as `values[places]` does, which ONNX has no one operation for."""
    return F.embedding(places, values.unsqueeze(1)).squeeze(-1)


def _mean_of_bag(bag: nn.Module, ids: Tensor) -> Tensor:
    """Return the mean vectors (B, K) of ids (B, S) by an `nn.EmbeddingBag`, 0 left out; zeros where there is no id."""
    if isinstance(bag, nn.EmbeddingBag) and not is_exported():
        mean: Tensor = bag(ids)
        return mean
    there = (ids != 0).float()  # ONNX has no bags, and is quicker at a product of matrices than at sums over positions
    weights = there / there.sum(dim=1, keepdim=True).clamp(min=1)
    vectors: Tensor = F.embedding(ids, bag.weight) if isinstance(bag, nn.EmbeddingBag) else bag(ids)
    return torch.bmm(weights.unsqueeze(1), vectors).squeeze(1)


def embedding_widths(vocabularies: Mapping[str, int], size: int, exponent: float) -> dict[str, int]:
    """Return every field's width K_f, by the equation of `FeatureEmbedding`.

    >>> embedding_widths({"user": 1000, "gender": 3, "price": 1}, 16, 0.25)
    {'user': 16, 'gender': 4, 'price': 16}

    Args:
        vocabularies: V_f by field; 1 where there is one vector alone.
        size: K.
        exponent: a; 0 for K everywhere.
    """
    several = [n for n in vocabularies.values() if n > 1]
    if not exponent or not several:
        return dict.fromkeys(vocabularies, size)
    reference = max(several) if exponent > 0 else min(several)
    return {
        field: size if n <= 1 else max(1, round(size * (n / reference) ** exponent))
        for field, n in vocabularies.items()
    }


@torch.no_grad()
def _initialise(table: nn.Embedding | nn.EmbeddingBag, unknown: Tensor) -> None:
    nn.init.normal_(table.weight, std=INITIAL_STD)
    table.weight[unknown] = 0.0
