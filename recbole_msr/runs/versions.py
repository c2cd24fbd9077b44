"""The versions of the software that makes a run."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = ("recbole-msr", "recbole", "torch", "pytorch-lightning", "numpy", "pandas", "scipy")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that numbers depend on."""
    by_name = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            by_name[name] = version(name)
        except PackageNotFoundError:
            by_name[name] = "not installed as a package"
    return by_name
