"""Two packages that every process imports and few use are loaded when they are used: TorchDynamo and torchmetrics.

Together they are half of what a process imports. Lightning names one class of TorchDynamo and three names of
torchmetrics; PyTorch's optimizers ask TorchDynamo, at every step, to do nothing unless it is compiling. For these
callers, and for these names alone, a module that is not loaded yet answers by itself. Anybody else who touches it gets
the real module: it is executed at the first access, in the same module object, and from then on it is a plain module.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from types import FrameType, ModuleType
from typing import Any

__all__ = ["install"]

_LIGHTNING = ("pytorch_lightning", "lightning_fabric", "lightning_utilities")


def _import_lock(module: ModuleType) -> contextlib.AbstractContextManager[None]:
    """Return the lock that an import of the module holds: Python recognises a deadlock among these locks."""
    lock: contextlib.AbstractContextManager[None] = importlib._bootstrap._ModuleLockManager(module.__name__)  # type: ignore[attr-defined]
    return lock


class _Unloaded:
    """The state of a module that is not loaded: how to load it, and what it answers before.

    Attributes:
        callers: beginnings of the names of the modules for which the answers are.
        answers: by name, a function that returns the value for them.
    """

    callers: tuple[str, ...] = ()

    def __init__(self, module: ModuleType, loader: importlib.abc.Loader) -> None:
        self.module, self.loader = module, loader
        self.loading = False
        # With a path, Python would take `from module import name` and `import module.inner` for no use of the module.
        self.path = vars(module).pop("__path__")
        self.answers: Mapping[str, Callable[[], Any]] = {}

    def get(self, name: str, caller: str) -> Any:
        """Return an attribute, for a caller (a module's name) that asks for it."""
        try:
            with _import_lock(self.module):
                if not self.loading:
                    if type(self.module) is _LazyModule and caller.startswith(self.callers):
                        if name in self.answers:
                            return self.answers[name]()
                        if name == "__path__":
                            raise AttributeError(name)
                    if type(self.module) is _LazyModule:
                        self.load()
                    return getattr(self.module, name)
        except importlib._bootstrap._DeadlockError:  # type: ignore[attr-defined]
            pass  # the thread that loads it waits for an import of this one: take what is there, as in a circle
        if name in vars(self.module):
            return vars(self.module)[name]
        raise AttributeError(f"partially initialized module {self.module.__name__!r} has no attribute {name!r}")

    def load(self) -> None:
        """Execute the real module."""
        self.loading = True
        vars(self.module)["__path__"] = self.path
        try:
            self.loader.exec_module(self.module)
        except BaseException:
            del vars(self.module)["__path__"]
            sys.modules.pop(self.module.__name__, None)  # the next import tries again, as with any module
            raise
        finally:
            self.loading = False
        self.module.__class__ = ModuleType
        del vars(self.module)["_unloaded"]

    def inner(self, *names: str) -> ModuleType:
        """Import modules of the package without the package's own code, in this order, and return the last."""
        vars(self.module)["__path__"] = self.path
        try:
            return [importlib.import_module(f"{self.module.__name__}.{name}") for name in names][-1]
        finally:
            if type(self.module) is _LazyModule:
                vars(self.module).pop("__path__", None)


class _LazyModule(ModuleType):
    """A module that is loaded at the first access to what it has not been asked for by its known callers."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in ("__path__", "__version__", "__all__"):
            raise AttributeError(name)  # whoever looks through all modules asks for these; nothing is loaded for them
        unloaded = vars(self).get("_unloaded")
        if unloaded is None:  # another thread has loaded it meanwhile
            return getattr(self, name)
        frame: FrameType | None = sys._getframe(1)
        if frame is not None and frame.f_globals.get("__name__") == "torch.compiler":  # it asks for its own caller
            frame = frame.f_back
        return unloaded.get(name, str(frame.f_globals.get("__name__")) if frame is not None else "")

    def __dir__(self) -> list[str]:
        with _import_lock(self):
            if type(self) is _LazyModule and not vars(self)["_unloaded"].loading:
                vars(self)["_unloaded"].load()
        return sorted(vars(self))


class _OptimizedModuleType(type):
    """Nothing is an instance of `OptimizedModule` while the module that makes them is not loaded."""

    def __instancecheck__(cls, instance: Any) -> bool:
        real = _loaded_class()
        return real is not None and isinstance(instance, real)

    def __subclasscheck__(cls, subclass: type) -> bool:
        real = _loaded_class()
        return subclass is cls or (real is not None and issubclass(subclass, real))


class _OptimizedModule(metaclass=_OptimizedModuleType):
    """What Lightning asks whether a module is compiled: `isinstance` answers as for the real class."""


def _loaded_class() -> type | None:
    module = sys.modules.get("torch._dynamo")
    return None if module is None or type(module) is _LazyModule else vars(module).get("OptimizedModule")


class _Dynamo(_Unloaded):
    """TorchDynamo, `torch._dynamo`: without it nothing compiles, so that there is nothing to keep it from."""

    callers = ("torch._compile", "torch.optim.optimizer", "lightning_fabric.wrappers", "pytorch_lightning.")

    def __init__(self, module: ModuleType, loader: importlib.abc.Loader) -> None:
        super().__init__(module, loader)
        self.on_load: list[Callable[[], None]] = []
        self.answers = {
            "OptimizedModule": lambda: _OptimizedModule,
            "graph_break": lambda: _nothing,
            "disable": lambda: self.disable,
        }

    def disable(self, fn: Any, recursive: bool = True, *, reason: str | None = None, wrapping: bool = True) -> Any:
        """Return a function that calls `fn`, and from when TorchDynamo is loaded on, keeps it out of `fn`."""
        current = fn

        @functools.wraps(fn)
        def call(*arguments: Any, **options: Any) -> Any:
            return current(*arguments, **options)

        def keep_out() -> None:
            nonlocal current
            current = self.module.disable(fn, recursive, reason=reason, wrapping=wrapping)
            if getattr(fn, _KEPT, None) is call:
                setattr(fn, _KEPT, current)

        self.on_load.append(keep_out)
        return call

    def load(self) -> None:
        super().load()
        for keep_out in self.on_load:
            keep_out()


_KEPT = "__dynamo_disable"
"""The attribute in which torch._compile keeps what `disable` has returned for a function."""


def _nothing(msg: str = "") -> None:
    """`torch._dynamo.graph_break` where nothing is compiled."""


class _TorchMetrics(_Unloaded):
    """torchmetrics, which imports SciPy's signals and, where they are, transformers, for metrics not used here."""

    callers = _LIGHTNING

    def __init__(self, module: ModuleType, loader: importlib.abc.Loader) -> None:
        super().__init__(module, loader)
        vars(module)["_logger"] = logging.getLogger(module.__name__)  # the modules below import it from the package
        self.answers = {
            "Metric": lambda: self.inner("utilities", "metric").Metric,
            "MetricCollection": lambda: self.inner("utilities", "collections").MetricCollection,
            "__version__": lambda: self.inner("__about__").__version__,
        }


_LAZY: dict[str, type[_Unloaded]] = {"torch._dynamo": _Dynamo, "torchmetrics": _TorchMetrics}


class _Loader(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        vars(module)["_unloaded"] = _LAZY[module.__name__](module, self._loader)
        module.__class__ = _LazyModule


class _PresentLoader(importlib.abc.Loader):
    """Gives out a module that is there already, as it is."""

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = sys.modules[spec.name]
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec


class _Finder(importlib.abc.MetaPathFinder):
    """Finds what Python's own finder finds, and puts the execution off."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if target is not None:  # the module is being reloaded
            return None
        if fullname in sys.modules and fullname.startswith(tuple(f"{name}." for name in _LAZY)):
            # `import package.inner` has loaded the package, and with it the inner module: Python would load that again.
            return importlib.machinery.ModuleSpec(fullname, _PresentLoader())
        if fullname not in _LAZY:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is None or spec.loader is None or spec.submodule_search_locations is None:
            return None
        spec.loader = _Loader(spec.loader)
        return spec


_finder = _Finder()


def install(lazily: bool = True) -> None:
    """Have the modules that are not imported yet loaded at their first use.

    Args:
        lazily: False: from now on they are imported like any other.
    """
    with contextlib.suppress(ValueError):
        sys.meta_path.remove(_finder)
    if lazily:
        sys.meta_path.insert(0, _finder)
