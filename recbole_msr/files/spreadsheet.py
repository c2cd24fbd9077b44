"""Tables as CSV that people open in a spreadsheet, where text of some kinds would run as a formula."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


def write_csv(frame: pd.DataFrame, path: Any) -> None:
    """Write a table as CSV in which no text is a formula: an apostrophe stands before what would be one.

    That is text which begins with =, +, -, @, a tab or a carriage return, and is no number. Names of columns count.
    """
    words = frame.select_dtypes(exclude=["number", "bool", "datetime"]).columns
    shown = frame.assign(**{name: frame[name].map(_as_text) for name in words})
    shown = shown.rename(columns=_as_text)
    # pandas leaves a carriage return unquoted; a spreadsheet would begin a row there.
    risky = any("\r" in str(cell) for cells in (shown.columns, *(shown[name] for name in shown)) for cell in cells)
    shown.to_csv(path, index=False, quoting=csv.QUOTE_NONNUMERIC if risky else csv.QUOTE_MINIMAL)


def _as_text(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@\t\r" and not _is_number(value) else value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text == ""
    return True
