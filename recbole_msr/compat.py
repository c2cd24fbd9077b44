"""RecBole 1.2.1 on today's NumPy, pandas, SciPy and torch, with or without ray.

RecBole's last release predates NumPy 2, pandas 3, SciPy 1.13 and torch 2.6. This module is the one place that
changes its behaviour, in memory and never on disk: :func:`apply` puts a hook into the import system that
repairs each ``recbole`` module right after its import (at once, if it is imported already).

Most breaks are a few characters inside a long function. They stand in :data:`REWRITES`: the fragment as it is
in RecBole, what replaces it, why, and until when. The module's source is compiled again with the fragments
replaced, and its functions get their new code in place, so that names imported elsewhere see it too; file and
line numbers stay RecBole's. Every rewrite gives the old stack the result it had, so none asks where it runs.
What is no fragment is a small function further down.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import linecache
import logging
import operator
import os
import pickle
import re
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from recbole_msr import lazy
from recbole_msr.errors import InputError
from recbole_msr.memory import use_huge_pages

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["after_import", "apply", "require_recbole"]

logger = logging.getLogger(__name__)

RECBOLE_VERSION = "1.2.1"
LOAD_PICKLES = "RECBOLE_MSR_LOAD_PICKLES"


class Rewrite(NamedTuple):
    """One fragment of one function, and what stands there instead (``_msr`` is this module)."""

    module: str
    function: str
    before: str
    after: str
    why: str

    @property
    def is_speedup(self) -> bool:
        return self.why.startswith("Speed-up: ")


# fmt: off
_DATASET = "data.dataset.dataset"
REWRITES: tuple[Rewrite, ...] = tuple(Rewrite("recbole." + m, f, old, new, why) for why, rows in {
    "NumPy 2 has no np.float_, np.complex_, np.unicode_. Until RecBole stops reading them.": (
        ("config.configurator", "Config.compatibility_settings", "float = np.float_", "float = np.float64"),
        ("config.configurator", "Config.compatibility_settings", "= np.complex_", "= np.complex128"),
        ("config.configurator", "Config.compatibility_settings", "= np.unicode_", "= np.str_"),
    ),
    "pandas 3 fills a copy, so missing values stayed, silently. Until RecBole assigns the result.": (
        (_DATASET, "Dataset._load_feat",
            'df[field].fillna(value="", inplace=True)', 'df[field] = df[field].fillna(value="")'),
        (_DATASET, "Dataset._fill_nan",
            "feat[field].fillna(value=0, inplace=True)", "feat[field] = feat[field].fillna(value=0)"),
        (_DATASET, "Dataset._fill_nan",
            "feat[field].fillna(value=feat[field].mean(), inplace=True)",
            "feat[field] = feat[field].fillna(value=feat[field].mean())"),
    ),
    "In pandas 3 agg(len) is the length of the series, not of each element. Until RecBole maps.": (
        (_DATASET, "Dataset._remap", ".agg(len)", ".map(len)"),
        (_DATASET, "Dataset._normalize", ".agg(len)", ".map(len)"),
        (_DATASET, "Dataset._discretization", ".agg(len)", ".map(len)"),
        ("data.dataset.kg_dataset", "KnowledgeBasedDataset._reset_ent_remapID", ".agg(len)", ".map(len)"),
        ("data.dataset.sequential_dataset", "SequentialDataset._benchmark_presets", ".agg(len)", ".map(len)"),
    ),
    "pandas 3 gives out read-only values, shared with the frame. Until RecBole copies them.": (
        (_DATASET, "Dataset._dataframe_to_interaction", "data[k].values", "data[k].values.copy()"),
        ("data.interaction", "Interaction.__init__",
            "interaction[key].values", "interaction[key].values.copy()"),
    ),
    "A RecBole checkpoint holds a pickled Config, refused by torch >= 2.6. Until RecBole asks for it.": (
        ("trainer.trainer", "Trainer.evaluate", "torch.load(checkpoint_file,",
            "_msr.load_pickle(checkpoint_file, own=checkpoint_file == self.saved_model_file,"),
        *((module, function, "torch.load(", "_msr.load_pickle(") for module, function in (
            ("trainer.trainer", "Trainer.resume_checkpoint"),
            ("quick_start.quick_start", "load_data_and_model"),
            ("model.general_recommender.convncf", "ConvNCF.__init__"),
            ("model.general_recommender.nais", "NAIS._load_pretrain"),
            ("model.general_recommender.neumf", "NeuMF.load_pretrain"),
            ("model.general_recommender.ract", "RaCT.__init__"),
            ("model.context_aware_recommender.kd_dagfm", "KD_DAGFM.__init__"),
            ("model.sequential_recommender.s3rec", "S3Rec.__init__"),
        )),
    ),
    "RecBole unpickles datasets that lie where it saves its own, and arrays. Until it reads what cannot run code.": (
        ("data.utils", "create_dataset", "if os.path.exists(file):", "if _msr.may_unpickle(config, file):"),
        ("data.utils", "load_split_dataloaders",
            "not os.path.exists(dataloaders_save_path)", "not _msr.may_unpickle(config, dataloaders_save_path)"),
        ("model.general_recommender.ldiffrec", "LDiffRec.__init__", "allow_pickle=True", "allow_pickle=False"),
    ),
    "Counts are ints and Counters and have no cpu(); four metrics raise on any stack. Until RecBole looks.": (
        ("evaluator.collector", "Collector.get_data_struct",
            "for key in self.data_struct._data_dict:",
            "for key in [k for k, v in self.data_struct._data_dict.items() if torch.is_tensor(v)]:"),
    ),
    "NumPy 2 prints np.float64(0.66), in logs and results. Until RecBole's metrics return floats.": (
        ("evaluator.evaluator", "Evaluator.evaluate", "update(metric_val)", "update(_msr.plain(metric_val))"),
    ),
    "hyperopt >= 0.2.6 draws from a Generator, not from a RandomState. Until RecBole follows.": (
        ("trainer.hyper_tuning", "exhaustive_search",
            "np.random.RandomState(seed)", "_msr.hyperopt_rng(seed)"),
    ),
    "RecBole passes text of files to eval, which runs whatever stands there. Until it reads literals and names.": (
        ("trainer.hyper_tuning", "HyperTuning._build_space_from_file",
            "eval(para_value)", "_msr.literal(para_value, para_name)"),
        ("model.context_aware_recommender.kd_dagfm", "KD_DAGFM.__init__",
            """eval(f"{config['teacher']}")""", """_msr.module_class(globals(), config["teacher"], "teacher")"""),
    ),
    "A spawned process starts without the changes made here. Until RecBole needs none.": (
        ("quick_start.quick_start", "run", "  run_recboles,\n", "  _msr.run_recboles,\n"),
    ),
    "Speed-up: the C parser reads the same table three times as fast as the Python one.": (
        (_DATASET, "Dataset._load_feat", "pd.read_csv(", "_msr.read_csv("),
    ),
    "Speed-up: NumPy finds the extremes of an array a hundred times faster than Python.": (
        (_DATASET, "Dataset._normalize", "mx, mn = max(arr), min(arr)", "mx, mn = _msr.extremes(arr)"),
    ),
    "Speed-up: one index tensor for all columns, not a Python list converted again for each of them.": (
        ("data.interaction", "Interaction.__getitem__",
            "(np.ndarray, torch.Tensor)):\n            index = index.tolist()",
            "(range, list, np.ndarray, torch.Tensor)):\n            index = _msr.one_index(index)"),
    ),
    "Speed-up: a model is looked for in its own family first; to look into one imports all of its models.": (
        ("utils.utils", "get_model",
            "for submodule in model_submodule:",
            "for submodule in _msr.own_family_first(model_submodule, model_name):"),
    ),
}.items() for m, f, old, new in rows)
# fmt: on


# --- What the rewritten fragments call


def load_pickle(file: Any, map_location: Any = None, own: bool = False) -> Any:
    """Read a checkpoint written by RecBole with ``torch.load``; ``own``: by this trainer, not from the user.

    A checkpoint of weights alone, as those of this package are, is read without running any code, and no warning.
    """
    import torch

    if not own:
        with contextlib.suppress(pickle.UnpicklingError):
            return _weights_alone(file, map_location)
        _warn_of_pickle(f"{file} is a RecBole checkpoint, that is a pickle")
    return torch.load(file, map_location=map_location, weights_only=False)


def may_unpickle(config: Any, file: str) -> bool:
    """Return whether RecBole may unpickle a dataset or its loaders: never with tasks, else if the user allows it.

    An environment variable allows it, not a key: a configuration that comes from somebody else sets keys.

    Raises:
        InputError: as `refuse_pickles`.
    """
    refuse_pickles(config)
    if config["tasks"] is not None or not os.path.exists(file):
        return False
    if os.environ.get(LOAD_PICKLES) == "1":
        _warn_of_pickle(f"{file} is a pickle of RecBole's")
        return True
    logger.warning(
        "%s is a pickle of RecBole's, which can run code: it is not read, the data are prepared anew (%s=1 in the "
        "environment has such files read)",
        file,
        LOAD_PICKLES,
    )
    return False


def refuse_pickles(config: Any) -> None:
    """Refuse keys by which a run with tasks would read a pickle.

    Raises:
        InputError: names the key.
    """
    if config["tasks"] is None:
        return
    for key in ("dataset_save_path", "dataloaders_save_path"):
        if config[key] is not None:
            raise InputError(
                f"{key} is for RecBole's pickles: they know no tasks, and reading one can run code; leave the key out: "
                f"prepared datasets have a cache of their own (cache_dir). Got {config[key]!r}"
            )
    for key in ("pretrain_path", "mf_pretrain_path", "mlp_pretrain_path", "pre_model_path", "warm_up"):
        if config[key] is not None and not _holds_weights_alone(str(config[key])):
            raise InputError(
                f"{key}: with tasks, pretrained weights are read from files of weights alone, such as best.ckpt of a "
                f"run of this package; {config[key]} is a pickle, and reading it can run code"
            )


def _weights_alone(file: Any, map_location: Any) -> Any:
    """Read a file of weights and plain values with ``torch.load``; ``UnpicklingError`` for any other."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a pickle's protocol
        return torch.load(file, map_location=map_location, weights_only=True)


def _holds_weights_alone(file: str) -> bool:
    """Return False for a pickle of other objects; a missing file is left to the model to refuse."""
    if os.path.isfile(file):
        try:
            _weights_alone(file, "meta")
        except pickle.UnpicklingError:
            return False
        except Exception:  # damaged: the model says so
            return True
    return True


def _warn_of_pickle(what: str) -> None:
    _warn_once(
        f"{what}: reading it can run any code its author put there. Load only files that you trust.", key="pickle"
    )


def plain(result: dict[str, Any]) -> dict[str, Any]:
    """Return a metric's result with NumPy scalars turned into Python numbers of the same value."""
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in result.items()}


def literal(text: str, name: str) -> Any:
    """Return the Python literal in a line of a RecBole parameter file.

    Raises:
        InputError: the text is an expression, which RecBole would evaluate.
    """
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise InputError(f"'{name} choice' wants a list of values such as [64, 128], got {text!r}") from error


def module_class(names: Mapping[str, Any], name: Any, key: str) -> type:
    """Return the class of this name that a module defines itself.

    Raises:
        InputError: the module defines no such class.
    """
    classes = {
        word: value
        for word, value in names.items()
        if isinstance(value, type) and value.__module__ == names["__name__"]
    }
    if name not in classes:
        raise InputError(f"{key} must be one of {', '.join(classes)}, got {name!r}")
    return classes[name]


def hyperopt_rng(seed: int) -> np.random.Generator | np.random.RandomState:
    """Return the kind of random generator that the installed hyperopt draws from."""
    import hyperopt

    return np.random.default_rng(seed) if _version(hyperopt) >= (0, 2, 6) else np.random.RandomState(seed)


def run_recboles(rank: int, *args: Any) -> None:
    """Run RecBole's ``run_recboles`` in a spawned process, which imports this module to find it."""
    apply()
    importlib.import_module("recbole.quick_start.quick_start").run_recboles(rank, *args)


def read_csv(path: str, delimiter: str, **options: Any) -> pd.DataFrame:
    """Call ``pandas.read_csv`` with the C parser: the same bits as from the Python parser that ``options`` ask for.

    A longer delimiter is a regular expression, which only the Python parser knows; that one also accepts some
    of what the C parser refuses (``1_000`` as a float). They differ on one kind of broken file: if each row
    has a delimiter more than the header, the Python parser takes column one for an index and shifts the rest.
    """
    import pandas as pd

    frame: pd.DataFrame
    if len(delimiter) == 1:
        fast = {**options, "engine": "c"}
        # pandas 3.1 deprecates the argument, because its default is exact by then.
        if _version(pd) < (3, 1):
            fast["float_precision"] = "round_trip"
        with contextlib.suppress(ValueError):
            frame = pd.read_csv(path, delimiter=delimiter, **fast)
            return frame
    frame = pd.read_csv(path, delimiter=delimiter, **options)
    return frame


def extremes(values: Any) -> tuple[Any, Any]:
    """Return ``max(values), min(values)``, by NumPy where that gives the same: no NaN, and zeros of one sign."""
    if isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind == "f" and len(values):
        high, low = values.max(), values.min()
        if high == high and high != 0 and low != 0:
            return high, low
    return max(values), min(values)


def one_index(index: Any) -> Any:
    """Return a row index as one tensor that selects, and copies, what ``index`` as a list would.

    A range becomes a tensor, not a slice: the parts of a split own their memory in RecBole. What is no flat
    sequence of integers or booleans is left to the rules that torch has for lists.
    """
    import torch

    if isinstance(index, range):
        return torch.arange(index.start, index.stop, index.step) if index else []
    if isinstance(index, list):
        return torch.tensor(index) if set(map(type, index)) == {int} else index
    if isinstance(index, np.ndarray):
        if index.ndim != 1 or index.dtype.kind not in "iub":
            return index.tolist()
        dtype = bool if index.dtype.kind == "b" else np.int64
        return torch.from_numpy(np.array(index, dtype=dtype, order="C"))
    if index.dim() != 1 or index.is_floating_point() or index.is_complex():
        return index.tolist()
    # As a list of numbers, a byte tensor is a list of rows; as a tensor it would be a mask.
    return index.cpu() if index.dtype == torch.bool else index.to("cpu", torch.int64)


def own_family_first(families: list[str], model: str) -> list[str]:
    """Return the packages of RecBole's models in the order to look for one, that with the model's file first.

    A model that has no file there is a registered one, which is found among the context-aware models.
    """
    name = model.lower()
    (folder,) = importlib.import_module("recbole.model").__path__
    loaded = [family for family in families if f"recbole.model.{family}.{name}" in sys.modules]
    with_file = [family for family in families if os.path.isfile(os.path.join(folder, family, f"{name}.py"))]
    first = loaded or with_file or ["context_aware_recommender"]
    return [*first, *(family for family in families if family not in first)]


# --- Fixes that are no fragment


def _define_numpy_aliases() -> None:
    """RecBole reads np.float, np.str, np.long and others, gone since NumPy 1.24. Until RecBole does not."""
    aliases = {
        "bool": np.bool_,
        "int": np.int_,
        "float": np.float64,
        "complex": np.complex128,
        "object": np.object_,
        "str": np.str_,
        "long": np.int_,
        "unicode": np.str_,
    }
    for name, scalar in aliases.items():
        if name not in vars(np):  # hasattr would warn
            setattr(np, name, scalar)


def _restore_dok_update(_: types.ModuleType) -> None:
    """SciPy 1.13 dropped ``dok_matrix._update``, called by LightGCN and six others. Until none calls it."""
    from scipy.sparse import dok_matrix

    if not hasattr(dok_matrix, "_update"):
        dok_matrix._update = lambda self, data: self._dict.update(data)


@contextlib.contextmanager
def _ray_stand_in() -> Iterator[None]:
    """Import quick_start without ray, where ray cannot be imported.

    It imports ray.tune for one report that does nothing outside a Ray trial. The ray it pins has no wheel for
    Python >= 3.12 and fails on NumPy 2. Until RecBole imports it where it needs it.
    """
    before = set(sys.modules)
    try:
        importlib.import_module("ray.tune")
    except Exception:  # missing, or broken by the stack: ray 2.6.3 raises several kinds of errors
        for name in set(sys.modules) - before:
            if name.partition(".")[0] == "ray":
                del sys.modules[name]
    else:
        yield
        return
    stand_in = types.ModuleType("ray")
    vars(stand_in)["tune"] = types.SimpleNamespace(report=lambda *args, **kwargs: None)
    previous = {name: sys.modules[name] for name in ("ray",) if name in sys.modules}
    sys.modules["ray"] = stand_in
    try:
        yield
    finally:
        del sys.modules["ray"]
        sys.modules.update(previous)


def _when_called(name: str, *functions: str) -> Callable[[], contextlib.AbstractContextManager[None]]:
    """Speed-up: what RecBole takes from another package and seldom calls is loaded when it is called."""

    def deferred(function: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            return getattr(importlib.import_module(name), function)(*arguments, **options)

        call.__name__ = call.__qualname__ = function
        return call

    def real(attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        stand_in = sys.modules.pop(name, None)
        try:
            return getattr(importlib.import_module(name), attribute)
        finally:
            if stand_in is not None:
                sys.modules[name] = stand_in

    @contextlib.contextmanager
    def around() -> Iterator[None]:
        if not _speedups or name in sys.modules or importlib.util.find_spec(name.partition(".")[0]) is None:
            yield
            return
        stand_in = types.ModuleType(name)
        vars(stand_in).update({function: deferred(function) for function in functions})
        vars(stand_in)["__getattr__"] = real  # for another thread, or another module that imports it meanwhile
        sys.modules[name] = stand_in
        try:
            yield
        finally:
            del sys.modules[name]

    return around


def _check_version(recbole: types.ModuleType) -> None:
    version = getattr(recbole, "__version__", "unknown")
    if version != RECBOLE_VERSION:
        _warn_once(
            f"recbole_msr knows RecBole {RECBOLE_VERSION}, found {version}: "
            "its changes for today's NumPy, pandas and torch are made where the code is still the same."
        )


_AROUND_IMPORT = {
    "recbole.quick_start.quick_start": _ray_stand_in,
    "recbole.evaluator.metrics": _when_called("sklearn.metrics", "auc", "mean_absolute_error", "mean_squared_error"),
    "recbole.utils.utils": _when_called("torch.utils.tensorboard", "SummaryWriter"),
}


# --- How a fix gets into a module

_REWRITTEN = {row.module for row in REWRITES}
_after_import: dict[str, list[Callable[[types.ModuleType], None]]] = {}
_speedups = True
_warned: set[str] = set()


def _warn_once(message: str, key: str | None = None) -> None:
    if (key or message) not in _warned:
        _warned.add(key or message)
        warnings.warn(message, RuntimeWarning, stacklevel=3)


def _version(module: types.ModuleType) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", module.__version__)[:3])


def _rewrite(module: types.ModuleType) -> None:
    """Give the functions of the module's rows the code that they have with the fragments replaced."""
    if vars(module).get("_msr_speedups") == _speedups:
        return
    # Kept, because others may wrap a function later, and it is the inner one that is rewritten.
    functions: dict[str, types.FunctionType] = vars(module).setdefault("_msr_functions", {})
    vars(module).update(_msr=sys.modules[__name__], _msr_speedups=_speedups)
    lines = list(linecache.getlines(str(module.__file__), vars(module)))
    for row in (row for row in REWRITES if row.module == module.__name__):
        try:
            function = functions.get(row.function) or inspect.unwrap(operator.attrgetter(row.function)(module))
            if function.__code__.co_filename != module.__file__:
                raise TypeError("somebody else's function stands there")
            count = len(inspect.getsourcelines(function)[0])
        except (AttributeError, OSError, TypeError):
            _warn_not_found(row)
            continue
        functions[row.function] = function
        if row.is_speedup and not _speedups:
            continue
        first = function.__code__.co_firstlineno - 1
        text = "".join(lines[first : first + count])
        if row.before not in text:
            _warn_not_found(row)
            continue
        lines[first : first + count] = text.replace(row.before, row.after).splitlines(keepends=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # RecBole's own, already shown when it was compiled
            code = compile("".join(lines), str(module.__file__), "exec", dont_inherit=True)
        at = {(inner.co_name, inner.co_firstlineno): inner for inner in _inner_codes(code)}
        for function in functions.values():
            function.__code__ = at[function.__code__.co_name, function.__code__.co_firstlineno]
    except (SyntaxError, KeyError, ValueError) as error:  # the file is no longer what was imported
        _warn_once(f"recbole_msr cannot repair {module.__name__}: {error!r}")


def _inner_codes(code: types.CodeType) -> Iterator[types.CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield constant
            yield from _inner_codes(constant)


def _warn_not_found(row: Rewrite) -> None:
    _warn_once(
        f"{row.module}.{row.function} is not as in RecBole {RECBOLE_VERSION}; recbole_msr does not find "
        f"{row.before!r} there and leaves it alone. {row.why}"
    )


class _FixingLoader(importlib.abc.Loader):
    """The module's own loader, with the fixes around ``exec_module``."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        # Whoever asks the module for its loader later (inspect, importlib.resources) gets the real one.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        with _AROUND_IMPORT.get(module.__name__, contextlib.nullcontext)():
            self._loader.exec_module(module)
        if module.__name__ in _REWRITTEN:
            # A reload keeps these, but brings the old code back.
            vars(module).pop("_msr_functions", None)
            vars(module).pop("_msr_speedups", None)
            _rewrite(module)
        for callback in _after_import.get(module.__name__, ()):
            callback(module)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds what the other finders find, and wraps the loader of the modules that have fixes."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in _REWRITTEN and fullname not in _AROUND_IMPORT and fullname not in _after_import:
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _FixingLoader(spec.loader)
                return spec
        return None


_finder = _Finder()


def apply(speedups: bool = True) -> None:
    """Make RecBole work on the installed stack; imports nothing of RecBole, and may be called again.

    Args:
        speedups: Also make the changes that only save time; results are the same bits. The last call decides.
            With ``RECBOLE_MSR_NO_SPEEDUPS=1`` in the environment they are never made.
    """
    global _speedups
    _speedups = speedups and os.environ.get("RECBOLE_MSR_NO_SPEEDUPS") != "1"
    lazy.install(_speedups)
    if _speedups:
        use_huge_pages()
    _define_numpy_aliases()
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    for name in sorted(_REWRITTEN & set(sys.modules)):
        _rewrite(sys.modules[name])
    after_import("recbole", _check_version)
    after_import("recbole.model.abstract_recommender", _restore_dok_update)


def after_import(name: str, callback: Callable[[types.ModuleType], None]) -> None:
    """Call ``callback(module)`` when the module ``name`` is imported and repaired; now, if it is already."""
    callbacks = _after_import.setdefault(name, [])
    if callback not in callbacks:
        callbacks.append(callback)
        if name in sys.modules:
            callback(sys.modules[name])


def require_recbole() -> None:
    """Raise an ``ImportError`` that says how to install RecBole, if it is not."""
    if "recbole" in sys.modules or importlib.util.find_spec("recbole") is not None:
        return
    # On newer Pythons pip finds no version, or an older RecBole, because the ray it pins has no wheel there.
    options = "--no-deps " if sys.version_info >= (3, 12) else ""
    raise ImportError(
        f"recbole_msr needs RecBole, which is not installed: pip install {options}recbole=={RECBOLE_VERSION}"
    )


@contextmanager
def tensorboard_below(folder: Path) -> Iterator[None]:
    """RecBole's trainer writes its TensorBoard files into a folder, not into the current one."""
    from torch.utils.tensorboard import SummaryWriter

    module: Any = importlib.import_module("recbole.trainer.trainer")
    original = module.get_tensorboard
    module.get_tensorboard = lambda logger: SummaryWriter(str(folder / "tensorboard"))
    try:
        yield
    finally:
        module.get_tensorboard = original
