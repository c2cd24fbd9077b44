"""Score rows with an exported model that is a program of `torch.export`, for the check of what was just written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from recbole_msr.runs.export.exported_model import PROGRAM, ExportedModel


class ProgramModel(ExportedModel):
    """An exported model whose graph is a program of PyTorch.

    A program is code of PyTorch's own operations; open those alone that you have written, or trust.
    """

    def _open(self, folder: Path, threads: int) -> Callable[[Mapping[str, np.ndarray]], np.ndarray]:
        program = torch.export.load(folder / PROGRAM).module()

        def score(inputs: Mapping[str, np.ndarray]) -> np.ndarray:
            with torch.no_grad():
                scores: np.ndarray = program(*(torch.from_numpy(value) for value in inputs.values())).numpy()
            return scores

        return score
