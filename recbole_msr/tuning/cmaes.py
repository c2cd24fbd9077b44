"""CMA-ES with its state in the study as JSON: Optuna keeps a pickle there, and a study may come from anybody."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from optuna.samplers import CmaEsSampler

from recbole_msr.errors import InputError


class JsonCmaEsSampler(CmaEsSampler):
    """Optuna's `CmaEsSampler`, with the same draws, that never unpickles what a study holds.

    Raises:
        InputError: the state in the study was not written by this class.
    """

    def _init_optimizer(self, *args: Any) -> Any:
        self._optimizer = super()._init_optimizer(*args)
        return self._optimizer

    def _restore_optimizer(self, completed_trials: Any) -> Any:
        for trial in reversed(completed_trials):
            parts = {k: v for k, v in trial.system_attrs.items() if k.startswith(self._attr_key_optimizer)}
            if parts:
                try:
                    self._optimizer = decode(json.loads(self._concat_optimizer_attrs(parts)))
                except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                    raise InputError(
                        f"the state of CMA-ES in trial {trial.number} of the study is damaged, or a pickle of an "
                        "earlier version, which is not read: begin a new study"
                    ) from error
                return self._optimizer
        return None

    def _split_optimizer_str(self, optimizer_str: str) -> dict[str, str]:
        return super()._split_optimizer_str(json.dumps(encode(self._optimizer)))


def encode(value: Any) -> Any:
    """Encode an optimiser of the package `cmaes`, or a part of one, for JSON; numbers keep all their bits.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(value, np.ndarray):
        return {"array": value.ravel().tolist(), "shape": list(value.shape), "dtype": value.dtype.name}
    if isinstance(value, np.generic):
        return {"number": value.item(), "dtype": value.dtype.name}
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if type(value).__name__ in _classes():
        state = value.__getstate__() if hasattr(value, "__setstate__") else vars(value)
        return {"class": type(value).__name__, "state": {name: encode(part) for name, part in state.items()}}
    raise TypeError(f"no part of CMA-ES: {type(value).__name__}")


def decode(value: Any) -> Any:
    """Decode what `encode` returned; only numbers, arrays of numbers and optimisers of `cmaes` are made.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(value, dict):
        if value is None or isinstance(value, (bool, int, float)):
            return value
        raise TypeError(f"no part of CMA-ES: {value!r}")
    if "class" in value:
        class_: Any = _classes()[value["class"]]
        made = class_.__new__(class_)
        state = {name: decode(part) for name, part in value["state"].items()}
        if hasattr(made, "__setstate__"):
            made.__setstate__(state)
        else:
            vars(made).update(state)
        return made
    dtype = np.dtype(value["dtype"])
    if dtype.kind not in "fiub":
        raise TypeError(f"no numbers: {dtype}")
    if "number" in value:
        return dtype.type(value["number"])
    return np.array(value["array"], dtype=dtype).reshape(value["shape"])


def _classes() -> dict[str, type]:
    import cmaes

    return {class_.__name__: class_ for class_ in (cmaes.CMA, cmaes.CMAwM, cmaes.SepCMA)}
