"""The versions of the software that makes a run."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = ("recbole-msr", "recbole", "torch", "pytorch-lightning", "numpy", "pandas", "scipy")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that numbers depend on."""
    return dict(_installed())


@cache
def _installed() -> dict[str, str]:
    """Look the versions up, once: that takes longer than many an epoch."""
    by_name = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            by_name[name] = version(name)
        except PackageNotFoundError:
            by_name[name] = "not installed as a package"
    return by_name
