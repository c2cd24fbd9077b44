"""Prompt templates: YAML files with a Jinja2 text for every language and level."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import Field

from recbole_msr.errors import InputError, nearest
from recbole_msr.files.yaml import parse_yaml
from recbole_msr.prompts.store import LEVELS
from recbole_msr.validation import Settings, validate
from recbole_msr.value_kinds import checked, choice, flag, maybe, name, take, text

FOLDER = Path(__file__).resolve().parent / "templates"

_count = checked(
    "a whole number of at least 0", lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 0
)
_prompt = checked("text, not empty", lambda value: isinstance(value, str) and value.strip() != "")

Texts = Annotated[dict[Annotated[str, choice(*LEVELS)], Annotated[str, _prompt]], Field(min_length=1)]
"""Level -> Jinja2 source."""
Title = Annotated[str | int | float | None, maybe(name("a name"))]


def available() -> list[str]:
    """List the names of the templates that come with this package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


class Limits(Settings):
    """Limits of what a prompt lists."""

    items: Annotated[int, _count] = 20
    """Maximum number of items in a prompt."""
    categories: Annotated[int, _count] = 5
    """Maximum number of categories in a prompt."""


class TemplateFile(Settings):
    """The content of a template's YAML file."""

    version: int
    """Raised whenever a text changes."""
    languages: Annotated[dict[str, Texts], Field(min_length=1)]
    """Language -> level ("scenario", "user", "item") -> Jinja2 source; the first language is the default one."""
    name: Title = None
    """The template's name; without it, the name of the file."""
    description: Annotated[str | None, maybe(text(may_be_empty=True))] = None
    """The purpose of this variant."""
    limits: Limits | None = None
    """Limits of what a prompt lists."""
    profile: Annotated[bool, flag()] = False
    """Whether the vectors of users and scenarios are means of their items' vectors; then only items have a text."""


@dataclass(frozen=True)
class Template:
    """One template in one language.

    Attributes:
        name, version: as the file gives them; `version` is raised whenever a text changes.
        language: the language of the texts.
        texts: level ("scenario", "user", "item") -> Jinja2 source.
        items: maximum number of items in a prompt.
        categories: maximum number of categories in a prompt.
        digest: hash of the file's content, so that an edited file without a new version is seen too.
        description: the purpose of this variant.
        is_profile: whether users and scenarios have means of item vectors instead of texts, see `profiles`.
    """

    name: str
    version: int
    language: str
    texts: Mapping[str, str]
    items: int
    categories: int
    digest: str
    description: str = ""
    is_profile: bool = False

    @classmethod
    def load(cls, name: str, language: str | None = None, max_items: int | None = None) -> Template:
        """Load a template of this package by name, or anybody's by the path of its YAML file.

        Args:
            name: "full", "brief", "keywords", "profile", or a path.
            language: one of the file's languages; its first if not given.
            max_items: instead of the template's own limit of items.

        Raises:
            InputError: no such template or language, or the file is not a template.
        """
        path = Path(name) if "/" in name or name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
        place, source = f"the template {path}", _read(name, path)
        content = validate(
            TemplateFile, parse_yaml(source, place), place, example="{version: 1, languages: {en: {user: TEXT}}}"
        )
        language = language or next(iter(content.languages))
        if language not in content.languages:
            raise InputError(f"{place} has no language '{language}', only {', '.join(content.languages)}")
        levels = list(content.languages[language])
        if content.profile and levels != ["item"]:
            raise InputError(f"{place} is a profile, whose only text is that of items; it has {', '.join(levels)}")
        limits = content.limits or Limits()
        return cls(
            name=str(content.name or path.stem),
            version=content.version,
            language=language,
            texts=content.languages[language],
            items=limits.items if max_items is None else take("max_items", _count, max_items),
            categories=limits.categories,
            digest=hashlib.blake2b(source.encode(), digest_size=16).hexdigest(),
            description=content.description or "",
            is_profile=content.profile,
        )

    def compiled(self, level: str) -> Prompt:
        """Compile the prompt of a level.

        Raises:
            InputError: the template has no such level, or its text is not valid Jinja2.
        """
        if level not in self.texts:
            raise InputError(
                f"the template '{self.name}' has no {level} prompt in '{self.language}', only {', '.join(self.texts)}"
            )
        try:
            return Prompt(self.name, level, _environment().from_string(self.texts[level]))
        except jinja2.TemplateSyntaxError as error:
            raise InputError(
                f"the template '{self.name}', {level} prompt, line {error.lineno}: {error.message}"
            ) from error


@dataclass(frozen=True)
class Prompt:
    """A compiled prompt of one level."""

    template: str
    level: str
    text: jinja2.Template

    def render(self, values: Mapping[str, Any]) -> str:
        """Return the prompt's text, without blank lines.

        Raises:
            InputError: the text names a value or a field that does not exist, or cannot be carried out.
        """
        try:
            text = self.text.render(values)
        except InputError as error:
            raise InputError(f"the template '{self.template}', {self.level} prompt: {error}") from error
        except Exception as error:  # the text of the template is code of somebody else
            raise InputError(
                f"the template '{self.template}', {self.level} prompt, cannot be filled: {error} "
                f"(a {self.level} prompt knows {', '.join(sorted(values))})"
            ) from error
        return "\n".join(line for line in (" ".join(line.split()) for line in text.splitlines()) if line)


def _read(name: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        if path.parent == FOLDER:
            raise InputError(
                f"there is no template '{name}'{nearest(name, available()) or '.'}"
                f" Templates: {', '.join(available())}, or the path of a YAML file."
            ) from error
        raise InputError(f"there is no template file {path}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the template {path} cannot be read: {error}") from error


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
    )
    environment.filters["number"] = lambda value: f"{value:,}"
    environment.filters["percent"] = lambda share: f"{100 * share:.0f}%"
    return environment
