"""Columns of atomic files, and what makes their cells of raw ones: times, lists, titles."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from recbole_msr.data.public.spec import Column, Convert, Step
from recbole_msr.files.text_rows import Batch


def token(*sources: str, convert: Convert | None = None, optional: bool = False) -> Column:
    """Return a column of categories."""
    return Column("token", sources, convert, is_optional=optional)


def key(*sources: str, convert: Convert | None = None) -> Column:
    """Return a column of ids, which no row lacks."""
    return Column("token", sources, convert, is_needed=True)


def number(*sources: str, convert: Convert | None = None, optional: bool = False) -> Column:
    """Return a column of numbers, in which a cell may be empty."""
    return Column("float", sources, convert, is_optional=optional)


def label(*sources: str, convert: Convert | None = None) -> Column:
    """Return a column of numbers, which no row lacks."""
    return Column("float", sources, convert, is_needed=True)


def words(*sources: str, convert: Convert | None = None, optional: bool = False) -> Column:
    """Return a column of several tokens with spaces between them, as titles are; other white space becomes one."""
    return Column("token_seq", sources, convert or plain_text, is_optional=optional)


def tokens(names: str) -> dict[str, Column]:
    """Return columns of categories that are called as in the raw file, from their names with spaces between them."""
    return {name: token(name) for name in names.split()}


def numbers(names: str) -> dict[str, Column]:
    """Return columns of numbers that are called as in the raw file, from their names with spaces between them."""
    return {name: number(name) for name in names.split()}


def labels(names: str) -> dict[str, Column]:
    """Return columns of numbers without gaps, called as in the raw file, from their names with spaces between them."""
    return {name: label(name) for name in names.split()}


def plain_text(cells: pa.Array) -> pa.Array:
    """Return text in which all white space is single spaces, as an atomic file can hold it; empty text is missing."""
    text = pc.utf8_trim_whitespace(pc.replace_substring_regex(cells, r"[\s\x00\x{85}\x{2028}\x{2029}]+", " "))
    return missing("")(text)


def missing(*marks: str) -> Convert:
    """Return a function that takes cells with these texts for missing ones."""
    return lambda cells: pc.if_else(pc.is_in(cells, pa.array(marks, cells.type)), pa.scalar(None, cells.type), cells)


def split(separator: str) -> Convert:
    """Return a function that makes tokens of a text with a separator between them; spaces within become underscores."""

    def convert(cells: pa.Array) -> pa.Array:
        whole = pc.replace_substring(plain_text(cells), f"{separator} ", separator)
        return pc.replace_substring(pc.replace_substring(whole, " ", "_"), separator, " ")

    return convert


def joined(cells: pa.Array) -> pa.Array:
    """Return the texts of lists as tokens; spaces within one become underscores."""
    parts = pc.replace_substring(plain_text(pc.fill_null(pc.list_flatten(cells), "")), " ", "_")
    lengths = pc.fill_null(pc.list_value_length(cells), 0).to_numpy(zero_copy_only=False)
    ends = pa.array([0, *lengths.cumsum().tolist()], pa.int32())
    return missing("")(pc.binary_join(pa.ListArray.from_arrays(ends, pc.fill_null(parts, "")), " "))


def bracketed(cells: pa.Array) -> pa.Array:
    """Return the tokens of a list that is written as [20, 34, 3]."""
    return missing("")(plain_text(pc.replace_substring_regex(cells, r"[\[\],'\"]+", " ")))


def first_of(separator: str) -> Convert:
    """Return a function that keeps what stands before the first separator."""
    return lambda cells: pc.struct_field(pc.extract_regex(cells, f"^(?P<first>[^{_escaped(separator)}]*)"), "first")


def matched(pattern: str) -> Convert:
    """Return a function that keeps what the group `kept` of a regular expression matches; no match: missing."""
    return lambda cells: pc.struct_field(pc.extract_regex(cells, pattern), "kept")


def prefixed(prefix: str, *columns: str) -> Step:
    """Return a step that puts a text before each cell of the columns: ids that are counted anew in each file."""

    def step(batch: Batch) -> Batch:
        rows = batch.columns
        for name in columns:
            cells = rows.column(name)
            texts = pc.binary_join_element_wise(pa.scalar(prefix), cells, pa.scalar(""))
            rows = rows.set_column(rows.schema.get_field_index(name), name, texts)
        return Batch(rows, batch.place)

    return step


def filled(text: str) -> Convert:
    """Return a function that writes a text where a cell is missing."""
    return lambda cells: pc.fill_null(cells, text)


def milliseconds(cells: pa.Array) -> pa.Array:
    """Return milliseconds as seconds; what is no number stays, for the check that names it."""
    try:
        ticks = pc.cast(pc.round(pc.cast(cells, pa.float64())), pa.int64())
    except pa.ArrowException:
        return cells
    whole = pc.cast(pc.divide(ticks, 1000), pa.string())
    rest = pc.utf8_lpad(pc.cast(pc.subtract(ticks, pc.multiply(pc.divide(ticks, 1000), 1000)), pa.string()), 3, "0")
    return pc.binary_join_element_wise(whole, rest, ".")


def date_time(*forms: str) -> Convert:
    """Return a function that makes seconds since 1970 of a date written in one of these forms (UTC), such as %Y-%m-%d.

    What is no such date stays, for the check that names it.
    """

    def convert(cells: pa.Array) -> pa.Array:
        times = (pc.strptime(cells, format=form, unit="s", error_is_null=True) for form in forms)
        return pc.coalesce(*(pc.cast(pc.cast(time, pa.int64()), cells.type) for time in times), cells)

    return convert


def no_number_is_missing(cells: pa.Array) -> pa.Array:
    """Return cells without those that hold no number."""
    return pc.if_else(pc.match_substring_regex(cells, r"^-?[0-9]+(\.[0-9]+)?$"), cells, pa.scalar(None, cells.type))


def chained(*steps: Convert) -> Convert:
    """Return a function that applies several, one after another."""

    def convert(cells: pa.Array) -> pa.Array:
        for step in steps:
            cells = step(cells)
        return cells

    return convert


def first_characters(count: int) -> Convert:
    """Return a function that keeps the first characters of each cell, such as the year of a date."""
    return lambda cells: pc.utf8_slice_codeunits(cells, 0, count)


def _escaped(separator: str) -> str:
    return "".join(f"\\{letter}" for letter in separator)
