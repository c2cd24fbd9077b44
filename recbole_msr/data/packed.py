"""Packed tables: a split as a few tensors, cut into batches by indexing."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from recbole.data.interaction import Interaction

from recbole_msr.data.block_order import BlockOrder
from recbole_msr.data.negative_rows import DrawnRows, NegativeRows
from recbole_msr.data.negatives import NegativeSettings
from recbole_msr.data.ranked_lists import RankedLists, ranked_lists
from recbole_msr.data.rows import ROW_FIELD, Packed, PackedRows, pack, pack_dataset
from recbole_msr.evaluation.segments import Segments
from recbole_msr.threads import local_processes


class PackedTable:
    """One split of a built RecBole dataset, joined with its user and item fields.

    All numbers of a row lie side by side: token ids in an int32 table (N, F), floats in a float32 table (N, G), so that
    a batch is one indexing of each. A split of a `ScenarioDataset` is packed already (where it comes from the cache, in
    memory that is mapped from the file and shared by all processes), and is used as it is. Fields of users and items
    that are not in its rows (those with several numbers, all of a dataset made of a table) are looked up by the row's
    id when a batch is made.

    Args:
        dataset: a built split (its `inter_feat` is an Interaction).
        device: where the tables live.

    Attributes:
        scenario_names: those of the dataset; None where it knows no scenarios.
        lists: the lists whose fields the rows are; None for rows of a split.
        listed: of a split that is evaluated by ranked lists, the table of these; None for others.
        segments: of a validation or test split, the segments of its rows; None where none are declared.
        negatives: of a training split, the rows that are drawn for its positives; None where none are.
        is_numbered: whether batches have the `ROW_FIELD`: those of a training split for models of this package.
    """

    is_numbered = False
    _numbers: torch.Tensor | None = None  # of a part, its rows' numbers among those of the whole
    negatives: NegativeRows | None = None
    lists: RankedLists | None = None
    segments: Segments | None = None
    listed: PackedTable | None = None

    def __init__(self, dataset: Any, device: torch.device | str = "cpu") -> None:
        self.scenario_names: list[str] | None = getattr(dataset, "scenario_names", None)
        packed = _packed(dataset)
        self._length = len(packed)
        self._tokens, self._floats = packed.tokens.to(device), packed.floats.to(device)
        self._others = {name: column.to(device) for name, column in packed.others.items()}
        self._cuts = [_Cut(name, *place) for name, place in packed.places.items() if place[0] != "others"]
        self._sides: list[_Side] = []
        for key, feat in ((dataset.uid_field, dataset.user_feat), (dataset.iid_field, dataset.item_feat)):
            if feat is not None and key in packed.places:
                columns = {n: c for n, c in feat.interaction.items() if n != key and n not in packed.places}
                if columns:
                    self._add_side(packed.places[key][1], columns)

    def _add_side(self, place: int, columns: Mapping[str, torch.Tensor]) -> None:
        """Let columns of users or items be looked up by the id at a place of the tokens."""
        narrow = pack(len(next(iter(columns.values()))), {n: (c, None) for n, c in columns.items() if c.dim() == 1})
        others = narrow.others | {name: column for name, column in columns.items() if column.dim() > 1}
        widths = {"tokens": self._tokens.shape[1], "floats": self._floats.shape[1]}
        for side in self._sides:
            widths = {kind: width + getattr(side, kind).shape[1] for kind, width in widths.items()}
        for name, (kind, start, shape) in narrow.places.items():
            if kind != "others":
                self._cuts.append(_Cut(name, kind, widths[kind] + start, shape))
        device = self.device
        others = {name: column.to(device) for name, column in others.items()}
        self._sides.append(_Side(place, narrow.tokens.to(device), narrow.floats.to(device), others))

    @classmethod
    def for_run(cls, dataset: Any, config: Any) -> PackedTable:
        """Pack a split on the device that `data_device` names, or on the best one for the device that trains.

        A validation or test split has its ranked lists with it, a training split its negatives, where the configuration
        asks for these.
        """
        device = config["device"]
        if local_processes(config["lightning"]) > 1:  # each has a GPU of its own, which this one does not know yet
            device = torch.device("cpu")
        device = table_device(config["data_device"], device, _packed(dataset).size)
        table = cls(dataset, device)
        is_train = getattr(dataset, "split_name", None) == "train"
        table.is_numbered = is_train and hasattr(getattr(config, "model_class", None), "predict_tasks")
        settings = NegativeSettings.from_config(config) if is_train else None
        if settings is not None:
            table.negatives = NegativeRows(dataset, _packed(dataset), settings, device)
        is_evaluated = getattr(dataset, "split_name", None) in ("valid", "test")
        lists = ranked_lists(dataset, config) if is_evaluated else None
        if is_evaluated and lists is None:
            table.segments = Segments.of_split(dataset, config)
        if lists is not None:
            whole = table if dataset.every_label is dataset else cls(dataset.every_label, device)
            table.listed = whole.part(lists.rows)
            table.listed.lists = lists
        return table

    def part(self, rows: torch.Tensor) -> PackedTable:
        """Return a table of some of the rows; what is looked up by user or item is shared, not copied.

        Args:
            rows: row numbers (n,).
        """
        part = copy.copy(self)
        part.listed = None
        part.segments = None if self.segments is None else self.segments.at(rows.cpu().numpy())
        rows = rows.to(self.device)
        part._length = len(rows)
        part._tokens, part._floats = self._tokens.index_select(0, rows), self._floats.index_select(0, rows)
        part._others = {name: column[rows] for name, column in self._others.items()}
        part.negatives = None if self.negatives is None else self.negatives.part(rows)
        if self.is_numbered:
            part._numbers = rows if self._numbers is None else self._numbers.index_select(0, rows)
        return part

    def __len__(self) -> int:
        return self._length

    @property
    def device(self) -> torch.device:
        """The device that the tables are on."""
        return self._tokens.device

    def batch(self, rows: torch.Tensor | slice) -> Interaction:
        """Return the named rows, as RecBole's data loader would give them (fields in another order).

        The columns share their memory: they are the rows of one int64 and of one float32 matrix.

        Args:
            rows: row numbers (B,) from 0 on, a mask of all rows (N,) of booleans, or a slice of rows.
        """
        return self.columns(self.gather(rows))

    def gather(self, rows: torch.Tensor | slice, drawn: DrawnRows | None = None) -> dict[str, torch.Tensor]:
        """Return the numbers of the rows as they are kept, on the tables' device; `columns` makes a batch of them.

        Args:
            rows: as in `batch`.
            drawn: the items drawn for an epoch, whose rows then follow.
        """
        if isinstance(rows, slice):
            tokens, floats = self._tokens[rows], self._floats[rows]
        else:
            if rows.dtype == torch.bool:
                rows = rows.nonzero().squeeze(1)
            tokens, floats = self._tokens.index_select(0, rows), self._floats.index_select(0, rows)
        parts = {"tokens": tokens, "floats": floats}
        parts |= {f"/{name}": column[rows] for name, column in self._others.items()}
        if drawn is not None or self.is_numbered:
            numbers = torch.arange(len(self), device=self.device)[rows] if isinstance(rows, slice) else rows
            if self.is_numbered:
                parts[f"/{ROW_FIELD}"] = numbers if self._numbers is None else self._numbers[numbers]
            if drawn is not None:
                parts = drawn.extend(numbers, parts)
        return self._with_sides(parts)

    def _with_sides(self, parts: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Put what is looked up by users and items beside the numbers of rows."""
        found: dict[str, list[torch.Tensor]] = {kind: [parts[kind]] for kind in ("tokens", "floats")}
        for side in self._sides:
            ids = parts["tokens"][:, side.place]
            parts |= {f"/{name}": column[ids] for name, column in side.others.items()}
            for kind, of_kind in found.items():
                table: torch.Tensor = getattr(side, kind)
                if table.shape[1]:
                    of_kind.append(table.index_select(0, ids))
        return parts | {kind: torch.cat(of_kind, dim=1) for kind, of_kind in found.items() if len(of_kind) > 1}

    def whole(self, names: Iterable[str]) -> Interaction:
        """Return all rows of the named fields with one number a row; a field that does not exist is left out."""
        wanted = set(names)
        cuts = [cut for cut in self._cuts if cut.name in wanted and not cut.shape]
        return Interaction(
            {cut.name: self._column(cut).to(torch.int64 if cut.table == "tokens" else torch.float32) for cut in cuts}
        )

    def _column(self, cut: _Cut) -> torch.Tensor:
        """Return a column with one number a row (N,)."""
        table: torch.Tensor = getattr(self, f"_{cut.table}")
        start, ids = cut.start, None
        for side in self._sides:
            if start >= table.shape[1]:
                start -= table.shape[1]
                table, ids = getattr(side, cut.table), self._tokens[:, side.place]
        return table[:, start] if ids is None else table[:, start][ids]

    def columns(self, parts: dict[str, torch.Tensor]) -> Interaction:
        """Return a batch from what `gather` gave, on the device where that is now."""
        tokens = parts["tokens"]
        # Turned round and made int64 in one pass, so that every column lies in one piece.
        wide = torch.empty(tokens.shape[::-1], dtype=torch.int64, device=tokens.device).copy_(tokens.t())
        tables = {"tokens": wide, "floats": parts["floats"].t().contiguous()}
        lines = {kind: table.unbind() for kind, table in tables.items()}
        values = {
            name: lines[kind][start] if not shape else _reshape_column(tables[kind], start, shape)
            for name, kind, start, shape in self._cuts
        }
        return Interaction(values | {name[1:]: part for name, part in parts.items() if name.startswith("/")})


def table_device(wanted: Any, device: torch.device, size: int, free: int | None = None) -> torch.device:
    """Choose the device of a packed table.

    Args:
        wanted: `data_device` of the configuration; None to choose.
        device: where the model is trained.
        size: bytes of the table.
        free: free bytes of the GPU, if known.

    Returns:
        The GPU where one is trained on and at least half of its free memory stays free; else the CPU, from which
        `PackedLoader` sends batches ahead.
    """
    if wanted is not None:
        return torch.device(wanted)
    if device.type != "cuda":
        return torch.device("cpu")
    if free is None:
        free = torch.cuda.mem_get_info(device)[0]
    return device if 2 * size <= free else torch.device("cpu")


def _packed(dataset: Any) -> Packed:
    inter = dataset.inter_feat
    if not (isinstance(inter, PackedRows) and inter.is_as_packed((dataset.user_feat, dataset.item_feat))):
        inter = pack_dataset(dataset)
    return inter.packed


class _Side(NamedTuple):
    """Columns of users or items, looked up by the id at a place of a row's tokens; `others` are no single numbers."""

    place: int
    tokens: torch.Tensor
    floats: torch.Tensor
    others: dict[str, torch.Tensor]


class _Cut(NamedTuple):
    """The place of a column in its table."""

    name: str
    table: str
    start: int
    shape: tuple[int, ...]


def _reshape_column(part: torch.Tensor, start: int, shape: tuple[int, ...]) -> torch.Tensor:
    """Return the column (B, *shape) from its places in a matrix of places x rows."""
    return torch.unflatten(part[start : start + math.prod(shape)].t(), 1, shape)


class EpochOrder:
    """The order of the rows in every epoch: the one RecBole's own data loader draws from the same seed.

    It follows from the seed and the epoch alone, so that it is the same for any number of workers or processes and
    after a resume.

    Attributes:
        seed: the seed.
        epoch: the epoch whose order is drawn next, counted from 0.
    """

    def __init__(self, length: int, seed: int, shuffle: bool = True) -> None:
        self._length, self.seed, self._shuffle = length, seed, shuffle
        self._drawn = -1
        self.set_epoch(0)

    @staticmethod
    def of_setting(length: int, seed: int, shuffle: bool | str) -> EpochOrder | BlockOrder:
        """Return the order that `shuffle` of the configuration asks for."""
        return BlockOrder(length, seed) if shuffle == "blocks" else EpochOrder(length, seed, bool(shuffle))

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order is drawn next, counted from 0."""
        self.epoch = epoch

    def share(self, batch_size: int, processes: int) -> None:
        """Take no notice of how batches are cut: the order is the same for any number of processes."""

    def rows(self) -> torch.Tensor | None:
        """Row numbers (N,) of the current epoch, int32; None for the rows as they stand."""
        if not self._shuffle:
            return None
        if self.epoch < self._drawn or self._drawn < 0:
            self._generator = torch.Generator()
            self._generator.manual_seed(self.seed)
            self._drawn = -1
        while self._drawn < self.epoch:
            # RecBole's loader is a torch DataLoader: each pass draws a seed for workers, a permutation, and a second
            # permutation of which it takes nothing.
            torch.empty((), dtype=torch.int64).random_(generator=self._generator)
            # In int32, which draws the same numbers and takes half the memory.
            order = torch.randperm(self._length, generator=self._generator, dtype=torch.int32)
            torch.randperm(self._length, generator=self._generator, dtype=torch.int32)
            self._order, self._drawn = order, self._drawn + 1
        return self._order


class PackedLoader:
    """Batches of a packed table, for any loop that iterates over a data loader.

    With several processes, every batch is cut into as many parts (so `batch_size` is that of all together), and
    every row is seen exactly once. For training each process gets the same number of batches: parts may differ by one
    row, and `weight` says how much the mean over a part counts. Where the last batch has fewer rows than there are
    processes, some get a row of another process, with weight 0.

    Args:
        table: the rows.
        batch_size: rows a batch, over all processes. With N negatives for each positive, as many of them count, as in
            RecBole: a batch has batch_size / (1 + N) rows of the table, and the negatives of these.
        order: the order of the rows for training; None for evaluation.
        rank, world_size: which of how many processes this is.
        ahead: the device to which the next batch is copied while one is worked on; None where the tables live there.
    """

    def __init__(
        self,
        table: PackedTable,
        batch_size: int,
        order: EpochOrder | BlockOrder | None = None,
        rank: int = 0,
        world_size: int = 1,
        ahead: torch.device | None = None,
    ) -> None:
        self._negatives = table.negatives if order is not None else None
        times = 1 if self._negatives is None else 1 + self._negatives.number
        self.table, self.batch_size, self.order = table, max(int(batch_size) // times, world_size, 1), order
        self.rank, self.world_size, self.ahead = rank, world_size, ahead
        if order is not None:
            order.share(self.batch_size, world_size)
            self.sampler, self.batch_sampler = order, None  # Lightning calls sampler.set_epoch before every epoch

    def __len__(self) -> int:
        full, rest = divmod(len(self.table), self.batch_size)
        needed = 1 if self.order is not None else self.rank + 1
        return full + (rest >= needed)

    def rows_of(self, number: int) -> int:
        """Rows of a batch, over all processes, with its negatives."""
        start = number * self.batch_size
        return self._with_negatives(slice(start, min(start + self.batch_size, len(self.table))))

    def _with_negatives(self, places: slice) -> int:
        """Return the rows at some places of the order, with the negatives of these."""
        count = len(range(*places.indices(len(self.table))))
        if self._negatives is None:
            return count
        rows = self.order.rows() if self.order is not None else None
        is_positive = self._negatives.is_positive[places if rows is None else rows[places].long()]
        return count + self._negatives.number * int(is_positive.sum())

    def weight(self, number: int) -> float:
        """W n / N of a training batch, for n rows of this process among the N of all W.

        The mean over processes of what each has as a mean over its own rows, times this, is the mean over the N rows.
        """
        start = number * self.batch_size
        end = min(start + self.batch_size, len(self.table))
        own = self._with_negatives(slice(start + self.rank, end, self.world_size)) if start + self.rank < end else 0
        return own * self.world_size / self.rows_of(number)

    def __iter__(self) -> Iterator[Interaction]:
        if self.ahead is None:
            return map(self.table.columns, self._gathered())
        return _sent_ahead(self.table, self._gathered(), self.ahead)

    def _gathered(self) -> Iterator[dict[str, torch.Tensor]]:
        """Return what each batch is made of; an epoch's items are drawn when the first one is asked for."""
        drawn = None
        if self._negatives is not None and self.order is not None:
            drawn = self._negatives.draw(self.order.seed, self.order.epoch)
        for rows in self._parts():
            yield self.table.gather(rows, drawn)

    def _parts(self) -> Iterator[torch.Tensor | slice]:
        """Return the rows of every batch."""
        rows = self.order.rows() if self.order is not None else None
        if rows is not None:
            rows = rows.to(self.table.device)
        for number in range(len(self)):
            start = number * self.batch_size
            end = min(start + self.batch_size, len(self.table))
            first = start + self.rank
            if first >= end:  # a training batch of fewer rows than processes: all must take the step
                first = start
            part = slice(first, end, self.world_size)
            yield part if rows is None else rows[part].long()


def _sent_ahead(
    table: PackedTable, parts: Iterator[dict[str, torch.Tensor]], device: torch.device
) -> Iterator[Interaction]:
    """Batches on a device, of what was gathered for each, sent there before the one before it is worked on."""
    side = torch.cuda.Stream(device) if device.type == "cuda" else None

    def send(gathered: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], Any]:
        if side is None:
            return {name: part.to(device) for name, part in gathered.items()}, None
        with torch.cuda.stream(side):  # only from pinned memory does a copy run beside other work
            sent = {name: part.pin_memory().to(device, non_blocking=True) for name, part in gathered.items()}
        return sent, side.record_event()

    def receive(sent: dict[str, torch.Tensor], done: Any) -> Interaction:
        if side is not None:
            working = torch.cuda.current_stream(device)
            working.wait_event(done)
            for part in sent.values():
                part.record_stream(working)  # its memory is not used again before the work on it is done
        return table.columns(sent)

    waiting = None
    for gathered in parts:
        sent = send(gathered)
        if waiting is not None:
            yield receive(*waiting)
        waiting = sent
    if waiting is not None:
        yield receive(*waiting)


def row_numbers(loader: PackedLoader) -> torch.Tensor:
    """Return the rows of the table that an evaluation loader of this process goes through, in its order."""
    rows = torch.arange(len(loader.table))
    return torch.cat([batch[loader.rank :: loader.world_size] for batch in rows.split(loader.batch_size)])


def batch_rows(loader: PackedLoader, number: int) -> torch.Tensor:
    """Return the rows of the table in one batch of an evaluation loader of this process."""
    start = number * loader.batch_size
    return torch.arange(start + loader.rank, min(start + loader.batch_size, len(loader.table)), loader.world_size)
