"""The commands `recbole-msr prompts` and `recbole-msr embed`: from settings to what they print."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_msr.config.merge import merge_settings
from recbole_msr.errors import InputError, nearest
from recbole_msr.files.outputs import check_paths
from recbole_msr.prompts.build import Prompts, build_prompts
from recbole_msr.prompts.embed import STORE_DTYPES, build_knowledge, find_knowledge, request_hash
from recbole_msr.prompts.encoders import DEFAULT_ENCODER, Encoder, make_encoder, option_names
from recbole_msr.prompts.facts import Facts
from recbole_msr.prompts.fingerprint import fingerprint
from recbole_msr.prompts.store import LEVELS, check_name
from recbole_msr.prompts.template import Template
from recbole_msr.threads import local_processes, torch_threads
from recbole_msr.value_kinds import anything, choice, flag, maybe, name, path, take, text, whole

_OWN = {
    "template": text("the name of a template or the path of one"),
    "language": text("the name of a language"),
    "max_items": whole(0),
    "max_tokens": whole(1),
    "title_field": text("the name of a field"),
    "category_field": text("the name of a field"),
    "liked": name("the name of a task"),
    "levels": anything(),
    "encoder": text("an encoder such as minilm"),
    "name": text("a name for the knowledge"),
    "knowledge_dir": path("the path of a folder"),
    "batch_size": whole(1),
    "sort_by_length": flag(),
    "store_dtype": choice(*STORE_DTYPES),
}
"""The settings of prompts and of the store, with the kind of each."""
_MODEL = "HiNet"  # any multi-scenario model: it decides how the dataset is read, and is never built


def show_prompts(
    dataset: str | None, files: Sequence[str | Path], settings: Mapping[str, Any], n: int = 1
) -> Iterator[str]:
    """Some prompts of each level, with headings.

    Args:
        dataset: a dataset's name; may also stand in the settings.
        files: YAML files with settings; later ones win.
        settings: settings of the prompts (template, language, levels, ...) and of RecBole. With an `encoder` its
            lengths are shown, and prompts are cut to its window.
        n: how many prompts of each level.

    Raises:
        InputError: something given cannot be used.
    """
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise InputError(f"--n must be a whole number of at least 1, got {n!r}")
    own, encoder_options, rest = _sorted(dataset, files, settings)
    levels = _levels(own.get("levels"))
    template = _template(own)
    encoder = make_encoder(own["encoder"], encoder_options) if own.get("encoder") else None
    facts = _facts(_train_split(rest), own)
    for level in levels:
        if level not in template.texts and own.get("levels") is None:
            continue
        prompts = build_prompts(facts, template, level, encoder, own.get("max_tokens"), first=n)
        for token, prompt, length, cut in zip(
            prompts.tokens, prompts.texts, prompts.lengths, prompts.truncated, strict=True
        ):
            size = f", {length} tokens{', cut to fit' if cut else ''}" if encoder is not None else ""
            yield f"--- {level} {token} ({template.name} {template.version}, {template.language}{size})"
            yield prompt
            yield ""


def embed(
    dataset: str | None, files: Sequence[str | Path], settings: Mapping[str, Any], replace: bool = False
) -> Iterator[str]:
    """Build knowledge; yields what is to be told.

    Args:
        dataset: a dataset's name; may also stand in the settings.
        files: YAML files with settings; later ones win.
        settings: of the prompts, the encoder (`encoder`, default minilm), the store (`name`) and RecBole.
        replace: take the place of other knowledge of this name.

    Raises:
        InputError: something given cannot be used, or the encoder fails.
    """
    own, encoder_options, rest = _sorted(dataset, files, settings)
    if not own.get("name"):
        raise InputError("what shall the knowledge be called? --name=NAME; run_recbole --knowledge=NAME then finds it")
    check_name(own["name"])
    levels, template = _levels(own.get("levels")), _template(own)
    if own.get("levels") is None:
        levels = [level for level in levels if level in template.texts]
    encoder = make_encoder(own.get("encoder") or DEFAULT_ENCODER, encoder_options)
    config = _config(rest)
    train = _train_split(config)
    facts = _facts(train, own)
    made_by = {
        "data": fingerprint(train),
        "template": {
            "name": template.name,
            "version": template.version,
            "language": template.language,
            "items": template.items,
            "categories": template.categories,
            "digest": template.digest,
        },
        "options": {
            "liked": facts.liked,
            "title_field": facts.title_field,
            "category_field": facts.category_field,
            "max_tokens": own.get("max_tokens"),
        },
    }
    passed = {key: own[key] for key in ("batch_size", "sort_by_length", "store_dtype") if key in own}
    request = request_hash(made_by, encoder, levels, str(own.get("store_dtype")))
    where = own.get("knowledge_dir") or config["knowledge_dir"]
    outcome = find_knowledge(str(own["name"]), where, request, replace)
    if outcome is None:
        prompts = [build_prompts(facts, template, level, encoder, own.get("max_tokens")) for level in levels]
        yield from _cut(prompts, encoder, own.get("max_tokens"))
        with torch_threads(config["threads"], local_processes(config["lightning"])):
            outcome = build_knowledge(
                str(own["name"]), where, prompts, encoder, made_by, request=request, replace=replace,
                show_progress=bool(config["show_progress"]), lightning=config["lightning"], **passed,
            )  # fmt: skip
    knowledge = outcome.knowledge
    counts = ", ".join(f"{knowledge.meta['levels'][level]['rows']} {level}" for level in knowledge.levels)
    if outcome.found == knowledge.name:
        yield f"Nothing to do: the knowledge '{knowledge.name}' is built already, from the same prompts and encoder."
    elif outcome.found:
        yield f"Nothing to encode: '{outcome.found}' was built from the same prompts and encoder and is shared."
    else:
        yield f"Encoded {outcome.encoded} prompts in {knowledge.meta['seconds']:g} s."
    kind = f"vectors of size {knowledge.size}, {knowledge.meta['dtype']}"
    yield f"Knowledge '{knowledge.name}': {counts} {kind}, in {knowledge.path}"
    given = f" --knowledge_dir={where}" if where else ""
    yield f"Use it: run_recbole --model=LLM4MSR --dataset={config['dataset']} --knowledge={knowledge.name}{given}"


def _sorted(
    dataset: str | None, files: Sequence[str | Path], settings: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Settings of prompts and store, of the encoder, and of RecBole."""
    settings = {key: value for key, value in settings.items() if value is not None}
    merged = merge_settings(files, settings, template=settings.get("template"), encoder=settings.get("encoder"))
    if dataset is not None:
        merged["dataset"] = dataset
    check_paths(merged)
    own = {key: take(key, maybe(kind), merged.pop(key)) for key, kind in _OWN.items() if key in merged}
    own = {key: value for key, value in own.items() if value is not None}
    encoder = {key: merged.pop(key) for key in option_names() if key in merged}
    return own, encoder, merged


def _levels(given: Any) -> list[str]:
    """Levels from `[user, item]`, "user" or "user,item", in their fixed order."""
    if given is None:
        return list(LEVELS)
    listed = [part.strip() for part in given.split(",")] if isinstance(given, str) else given
    if not isinstance(listed, Sequence) or not listed:
        raise InputError(f"levels must list some of {', '.join(LEVELS)}, got {given!r}")
    for level in listed:
        if level not in LEVELS:
            raise InputError(f"there is no level '{level}'{nearest(level, LEVELS) or '.'} Levels: {', '.join(LEVELS)}.")
    return [level for level in LEVELS if level in listed]


def _template(own: Mapping[str, Any]) -> Template:
    return Template.load(str(own.get("template") or "full"), own.get("language"), own.get("max_items"))


def _facts(train: Any, own: Mapping[str, Any]) -> Facts:
    return Facts(train, own.get("title_field"), own.get("category_field"), own.get("liked"))


def _config(rest: dict[str, Any]) -> Any:
    # Not imported above: training stands on models, and models on the store beside this file.
    from recbole_msr.config.build import build_config

    rest = dict(rest)
    model, dataset = rest.pop("model", _MODEL), rest.pop("dataset", None)
    if not dataset:
        raise InputError("no dataset given: --dataset=NAME, or 'dataset: NAME' in a configuration file")
    return build_config(model, dataset, rest)


def _train_split(config: Any) -> Any:
    """The training split, whatever RecBole prints while it is made."""
    from recbole.data import create_dataset

    from recbole_msr.config.build import reading_data
    from recbole_msr.data.dataset import ScenarioDataset
    from recbole_msr.data.rows_report import log_rows

    config = _config(config) if isinstance(config, dict) else config
    config["only_scenario"] = None  # knowledge is of all scenarios, and serves a run of one of them too
    with reading_data(config):
        dataset = create_dataset(config)
        if not isinstance(dataset, ScenarioDataset):
            raise InputError(
                "prompts speak of scenarios and tasks: declare them, for instance "
                "tasks: {click: {field: rating, at_least: 4}} and scenario: {field: age, bins: [25, 35]}"
            )
        train = dataset.build()[0]
    log_rows(dataset)
    return train


def _cut(prompts: Sequence[Prompts], encoder: Encoder, max_tokens: int | None) -> Iterator[str]:
    """Tells which prompts were too long."""
    window = min((limit for limit in (encoder.window, max_tokens) if limit is not None), default=None)
    for level in prompts:
        if level.truncated.any():
            inside = (
                f"; {level.within} were too long without any item too and are cut inside the text"
                if level.within
                else ""
            )
            longer = (
                f"{int(level.truncated.sum())} of {len(level)} {level.level} prompts are longer than {window} tokens"
            )
            yield f"{longer} and are cut at a whole item{inside}."
