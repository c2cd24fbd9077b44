"""Build the knowledge that a run's settings name by encoder and template."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from recbole_msr.errors import InputError
from recbole_msr.prompts.store import knowledge_folder
from recbole_msr.threads import process_rank

logger = logging.getLogger(__name__)


def built_knowledge(model: str, dataset: str, settings: Mapping[str, Any]) -> str:
    """Build the knowledge that ENCODER/TEMPLATE stands for, if it is not there yet.

    Of several processes that train together the first one builds it; the others wait until it is there.

    Args:
        model: a model's name.
        dataset: a dataset's name.
        settings: configuration keys, `knowledge: ENCODER/TEMPLATE` among them.

    Returns:
        The knowledge's name.

    Raises:
        InputError: `knowledge` is something else, or the knowledge cannot be built.
    """
    encoder, _, template = str(settings["knowledge"]).rpartition("/")
    name = f"{dataset}-{encoder}-{template}"
    data = {key: value for key, value in settings.items() if key not in ("knowledge", "lightning")}
    if not template.isidentifier() or not encoder.isidentifier():
        raise InputError(
            f"knowledge '{settings['knowledge']}' is neither a store's name nor ENCODER/TEMPLATE such as minilm/full; "
            "other encoders and templates take recbole-msr embed --name=NAME, and then knowledge: NAME"
        )
    if process_rank(settings.get("lightning")) != 0:
        while not (knowledge_folder(settings.get("knowledge_dir")) / name).is_dir():
            time.sleep(0.5)
        return name
    from recbole_msr.runs.knowledge_commands import embed  # with Jinja: runs without knowledge to build need neither

    for line in embed(dataset, [], {**data, "model": model, "encoder": encoder, "template": template, "name": name}):
        logger.info("%s", line)
    return name
