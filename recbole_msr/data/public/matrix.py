"""Read MATLAB files that hold one matrix of numbers. They are small: the whole is in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from recbole_msr.data.public.spec import MatrixForm
from recbole_msr.errors import InputError
from recbole_msr.files.row_files import row_place
from recbole_msr.files.text_rows import Batch


def read_matrix(path: Path, size: int, form: MatrixForm) -> Any:
    """Yield the schema, then batches of at most `size` rows of whole numbers.

    Raises:
        InputError: the file cannot be read, or holds no matrix with these columns, or a number that is not whole.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        content = loadmat(path)
    except (OSError, ValueError, TypeError, NotImplementedError, MatReadError) as error:
        raise InputError(f"cannot read {path} as a MATLAB file: {error}") from error
    widths = (len(form.names), len(form.names) + len(form.optional))
    found = [value for name, value in content.items() if not name.startswith("__") and np.ndim(value) == 2]
    fitting = [value for value in found if value.shape[1] in widths and np.issubdtype(value.dtype, np.number)]
    if len(fitting) != 1:
        names = ", ".join([*form.names, *(f"[{name}]" for name in form.optional)])
        shapes = ", ".join(str(value.shape) for value in found) or "no matrix"
        raise InputError(f"{path} must hold one matrix with the columns {names}; it holds {shapes}")
    matrix = fitting[0]
    whole = np.isfinite(matrix).all(axis=1) & (np.round(matrix) == matrix).all(axis=1)
    if not whole.all():
        raise InputError(f"{path}, row {int(np.argmin(whole)) + 1} holds a number that is not whole")
    columns_there = (*form.names, *form.optional)[: matrix.shape[1]]
    schema = pa.schema([(name, pa.string()) for name in columns_there])
    yield schema
    for start in range(0, max(len(matrix), 1), size):
        part = matrix[start : start + size].astype(np.int64)
        columns = [pa.array(part[:, i]).cast(pa.string()) for i in range(len(columns_there))]
        yield Batch(pa.RecordBatch.from_arrays(columns, schema=schema), row_place(start))
