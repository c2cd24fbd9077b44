"""Prompt templates: YAML files with a Jinja2 text for every language and level."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from recbole_msr.errors import InputError, nearest
from recbole_msr.files.yaml import parse_yaml
from recbole_msr.prompts.store import LEVELS

FOLDER = Path(__file__).resolve().parent / "templates"
_KEYS = ("name", "version", "description", "limits", "languages")
_LIMITS = {"items": 20, "categories": 5}


def available() -> list[str]:
    """Names of the templates that come with this package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


@dataclass(frozen=True)
class Template:
    """One template in one language.

    Attributes:
        name, version: as the file gives them; `version` is raised whenever a text changes.
        language: the language of the texts.
        texts: level ("scenario", "user", "item") -> Jinja2 source.
        items: how many items a prompt lists at most.
        categories: how many categories a prompt lists at most.
        digest: of the file's content, so that an edited file without a new version is seen too.
        description: what this variant is for.
    """

    name: str
    version: int
    language: str
    texts: Mapping[str, str]
    items: int
    categories: int
    digest: str
    description: str = ""

    @classmethod
    def load(cls, name: str, language: str | None = None, max_items: int | None = None) -> Template:
        """A template of this package by name, or anybody's by the path of its YAML file.

        Args:
            name: "full", "brief", "keywords", or a path.
            language: one of the file's languages; its first if not given.
            max_items: instead of the template's own limit of items.

        Raises:
            InputError: no such template or language, or the file is not a template.
        """
        path = Path(name) if "/" in name or name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
        try:
            raw = path.read_text(encoding="utf-8")
        except FileNotFoundError as error:
            if path.parent == FOLDER:
                raise InputError(
                    f"there is no template '{name}'{nearest(name, available()) or '.'}"
                    f" Templates: {', '.join(available())}, "
                    "or the path of a YAML file."
                ) from error
            raise InputError(f"there is no template file {path}") from error
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"the template {path} cannot be read: {error}") from error
        content = parse_yaml(raw, f"the template {path}")
        return cls._checked(path, content, raw, language, max_items)

    @classmethod
    def _checked(cls, path: Path, content: Any, raw: str, language: str | None, max_items: int | None) -> Template:
        what = f"the template {path}"
        if not isinstance(content, Mapping):
            raise InputError(f"{what} must hold the keys {', '.join(_KEYS)}")
        for key in content:
            if key not in _KEYS:
                raise InputError(
                    f"{what}: unknown key '{key}'{nearest(key, _KEYS) or '.'} Known keys: {', '.join(_KEYS)}."
                )
        version, languages = content.get("version"), content.get("languages")
        if not isinstance(version, int) or isinstance(version, bool):
            raise InputError(f"{what} needs a version, a whole number, got {version!r}")
        if not isinstance(languages, Mapping) or not languages:
            raise InputError(f"{what} needs languages: {{en: {{user: TEXT, ...}}}}, got {languages!r}")
        language = language or str(next(iter(languages)))
        if language not in languages:
            raise InputError(f"{what} has no language '{language}', only {', '.join(map(str, languages))}")
        texts = languages[language]
        if not isinstance(texts, Mapping) or not texts:
            raise InputError(f"{what}: language '{language}' must map levels to texts, got {texts!r}")
        for level, text in texts.items():
            if level not in LEVELS:
                raise InputError(
                    f"{what}: unknown level '{level}'{nearest(level, LEVELS) or '.'} Levels: {', '.join(LEVELS)}."
                )
            if not isinstance(text, str) or not text.strip():
                raise InputError(f"{what}: the {level} prompt in '{language}' must be a text, got {text!r}")
        limits = content.get("limits") or {}
        if not isinstance(limits, Mapping) or set(limits) - set(_LIMITS):
            raise InputError(f"{what}: limits may hold {' and '.join(_LIMITS)}, got {limits!r}")
        limits = {**_LIMITS, **limits, **({} if max_items is None else {"items": max_items})}
        for key, value in limits.items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise InputError(f"{what}: the limit of {key} must be a whole number, 0 or more, got {value!r}")
        digest = hashlib.blake2b(raw.encode(), digest_size=16).hexdigest()
        return cls(
            str(content.get("name") or path.stem), version, language, dict(texts), limits["items"],
            limits["categories"], digest, str(content.get("description") or ""),
        )  # fmt: skip

    def compiled(self, level: str) -> Prompt:
        """The prompt of a level, ready to be filled.

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
        """The prompt's text, without blank lines.

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


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
    )
    environment.filters["number"] = lambda value: f"{value:,}"
    environment.filters["percent"] = lambda share: f"{100 * share:.0f}%"
    return environment
