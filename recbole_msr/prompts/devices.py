"""Encoding on several devices: Lightning's predict loop starts a process for each, and they share the batches."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from recbole_msr.errors import InputError
from recbole_msr.prompts.encoders import Encoder

Job = tuple[str, list[int], list[str]]
"""A level, row numbers, and their texts."""


class VectorWriter(Protocol):
    """The receiver of texts' vectors: a knowledge store under construction."""

    rank: int
    """Number of the process that writes."""

    def write(self, level: str, rows: Sequence[int], vectors: Any, answers: Sequence[str] | None) -> None:
        """Write the vectors, and the answers if there are any, of rows of a level."""


class _EncodeModule(pl.LightningModule):
    """Every process loads the encoder on its own device and writes what it encodes."""

    def __init__(self, build: VectorWriter, jobs: Sequence[Job], encoder: Encoder) -> None:
        super().__init__()
        self._build, self._jobs, self._encoder = build, jobs, encoder

    def predict_dataloader(self) -> Any:
        return DataLoader(list(self._jobs[self.global_rank :: self.trainer.world_size]), batch_size=None)  # type: ignore[arg-type]

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        return batch  # texts

    def on_predict_start(self) -> None:
        self._encoder.device = str(self.device)
        self._build.rank = self.global_rank

    def predict_step(self, batch: Job, batch_idx: int) -> None:
        level, rows, texts = batch
        self._build.write(level, rows, *self._encoder.encode_with_answers(texts))


def encode_on_devices(
    build: VectorWriter, jobs: Sequence[Job], encoder: Encoder, options: Mapping[str, Any], show_progress: bool
) -> None:
    """Encode all jobs on the devices that the options of pytorch_lightning.Trainer name.

    Raises:
        InputError: Lightning refuses the options, or a process failed; what was written is kept.
    """
    settings = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False} | dict(options)
    settings |= {"enable_progress_bar": show_progress, "use_distributed_sampler": False}
    settings.setdefault("strategy", "ddp_spawn")
    if settings["strategy"] not in ("ddp_spawn", "ddp_fork"):
        raise InputError(
            f"encoding on several devices starts its own processes: strategy ddp_spawn, not '{settings['strategy']}'"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
            trainer = pl.Trainer(**settings)
            trainer.predict(_EncodeModule(build, jobs, encoder), return_predictions=False)
    except InputError:
        raise
    except Exception as error:  # whatever a process ended with
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise InputError(
            f"encoding on several devices failed: {lines[-1] if lines else type(error).__name__}"
        ) from error
