"""Read the style sheet, the scripts and the templates of pages; they are files beside this one."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup


@cache
def read_asset(name: str) -> str:
    """Return the text of a file beside this one: "page.css"."""
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def render(template: str, /, **values: Any) -> Markup:
    """Return `TEMPLATE.html.j2` with these values; what is no `Markup` among them is escaped.

    Raises:
        jinja2.UndefinedError: the template uses a value that is not given.
    """
    return Markup(_environment().get_template(f"{template}.html.j2").render(**values))


@cache
def _environment() -> Environment:
    loader = FunctionLoader(read_asset)
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
