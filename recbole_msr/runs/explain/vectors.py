"""The vectors that a model reads of a language model's knowledge, by level."""

from __future__ import annotations

from torch import nn

from recbole_msr.models.knowledge import KnowledgeVectors
from recbole_msr.models.llm4msr import LLM4MSR

LEVELS = ("user", "item", "scenario")


def vectors_read(model: nn.Module | None) -> dict[str, list[KnowledgeVectors]]:
    """Return the modules that look vectors up, by level; those of LLM4MSR's meta layers before those of features."""
    if model is None:
        return {}
    found: dict[str, list[KnowledgeVectors]] = {}
    of_layers = [getattr(model, f"{level}_level") for level in LEVELS] if isinstance(model, LLM4MSR) else []
    modules = [level.vectors for level in of_layers if level is not None]
    modules += [module for module in model.modules() if isinstance(module, KnowledgeVectors) and module not in modules]
    for module in modules:
        found.setdefault(module.level, []).append(module)
    return {level: found[level] for level in LEVELS if level in found}
