"""The commands `recbole-msr prompts` and `recbole-msr embed`: from settings to what they print."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_msr.config.build import reading_data
from recbole_msr.config.merge import merge_settings
from recbole_msr.data.tables.dataset import place_tables
from recbole_msr.errors import InputError, nearest
from recbole_msr.files.outputs import check_paths
from recbole_msr.prompts.build import Prompts, build_prompts
from recbole_msr.prompts.embed import STORE_DTYPES, Outcome, build_knowledge, find_knowledge, request_hash
from recbole_msr.prompts.encoders import DEFAULT_ENCODER, Encoder, make_encoder, option_names
from recbole_msr.prompts.facts import Facts
from recbole_msr.prompts.fingerprint import fingerprint
from recbole_msr.prompts.profiles import IDENTITY, Profiles, make_profiles, rows_without_vector
from recbole_msr.prompts.store import LEVELS, check_name
from recbole_msr.prompts.template import Template
from recbole_msr.prompts.windows import WindowedEncoder
from recbole_msr.threads import local_processes, torch_threads
from recbole_msr.training.configure import training_config
from recbole_msr.value_kinds import anything, choice, flag, maybe, name, path, take, text, whole

KNOWLEDGE_KEYS = {
    "template": text("the name of a template or the path of one"),
    "language": text("the name of a language"),
    "max_items": whole(0),
    "max_tokens": whole(1),
    "long_prompts": choice("cut", "windows"),
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
"""The settings of prompts and of the store, with the kinds of their values."""
_MODEL = "HiNet"  # any multi-scenario model: it decides how the dataset is read, and is never built


def show_prompts(
    dataset: str | None, files: Sequence[str | Path], settings: Mapping[str, Any], n: int = 1
) -> Iterator[str]:
    """Yield prompts of each level, with headings, line by line.

    Args:
        dataset: a dataset's name; may also stand in the settings.
        files: YAML files with settings; later ones win.
        settings: settings of the prompts (template, language, levels, ...) and of RecBole. With an `encoder` its
            lengths are shown, and prompts are cut to its window; one that writes (`mode: generate`) shows its answers.
        n: number of prompts of each level.

    Raises:
        InputError: a setting cannot be used.
    """
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise InputError(f"--n must be a whole number of at least 1, got {n!r}")
    options, encoder_options, settings = _split(dataset, files, settings)
    levels = _levels(options.get("levels"))
    template = _template(options)
    encoder = make_encoder(options["encoder"], encoder_options) if options.get("encoder") else None
    if encoder is not None and _windows(options):
        encoder = WindowedEncoder(encoder)
    facts = _facts(_train_split(_config(settings)), options)
    for level in levels:
        if level not in template.texts and options.get("levels") is None:
            continue
        prompts = build_prompts(
            facts, template, level, encoder, options.get("max_tokens"), first=n, **_windows(options)
        )
        for token, prompt, length, cut in zip(
            prompts.tokens, prompts.texts, prompts.lengths, prompts.truncated, strict=True
        ):
            size = f", {length} tokens{', cut to fit' if cut else ''}" if encoder is not None else ""
            yield f"--- {level} {token} ({template.name} {template.version}, {template.language}{size})"
            yield prompt
            yield ""
            if encoder is not None and encoder.writes:
                _, answers = encoder.encode_with_answers([prompt])
                yield f"--- written by {options['encoder']} of {level} {token}"
                yield (answers or [""])[0] or "(nothing)"
                yield ""


def embed(
    dataset: str | None, files: Sequence[str | Path], settings: Mapping[str, Any], replace: bool = False
) -> Iterator[str]:
    """Build knowledge, and yield lines for the user about it.

    Args:
        dataset: a dataset's name; may also stand in the settings.
        files: YAML files with settings; later ones win.
        settings: of the prompts, the encoder (`encoder`, default minilm), the store (`name`) and RecBole.
        replace: replace other knowledge of this name.

    Raises:
        InputError: a setting cannot be used, or the encoder fails.
    """
    options, encoder_options, settings = _split(dataset, files, settings)
    if not options.get("name"):
        raise InputError("what shall the knowledge be called? --name=NAME; run_recbole --knowledge=NAME then finds it")
    check_name(options["name"])
    levels, template = _levels(options.get("levels")), _template(options)
    if template.is_profile:
        levels = [level for level in LEVELS if level in {*levels, "item"}]  # of which the others are made
    elif options.get("levels") is None:
        levels = [level for level in levels if level in template.texts]
    encoder = make_encoder(options.get("encoder") or DEFAULT_ENCODER, encoder_options)
    in_windows = _windows(options)
    if in_windows:
        encoder = WindowedEncoder(encoder)
    config = _config(settings)
    train = _train_split(config)
    facts = _facts(train, options)
    made_by = _made_by(train, template, facts, options.get("max_tokens"))
    made_by["options"] |= in_windows
    if template.is_profile:
        made_by["profile"] = IDENTITY | {"levels": levels}
    build_options = {key: options[key] for key in ("batch_size", "sort_by_length", "store_dtype") if key in options}
    request = request_hash(made_by, encoder, levels, str(options.get("store_dtype")))
    folder = options.get("knowledge_dir") or config["knowledge_dir"]
    outcome = find_knowledge(str(options["name"]), folder, request, replace)
    if outcome is None:
        encoded = ["item"] if template.is_profile else levels
        prompts = [
            build_prompts(facts, template, level, encoder, options.get("max_tokens"), **in_windows) for level in encoded
        ]
        yield from _cut(prompts, encoder, options.get("max_tokens"))
        profiles: list[Profiles] = []
        if template.is_profile:
            items = yield from _with_text(prompts[0], facts)
            prompts = [items]
            profiles = [make_profiles(facts, level, items.tokens) for level in levels if level != "item"]
        with torch_threads(config["threads"], local_processes(config["lightning"])):
            outcome = build_knowledge(
                str(options["name"]), folder, prompts, encoder, made_by, request=request, replace=replace,
                show_progress=bool(config["show_progress"]), lightning=config["lightning"], profiles=profiles,
                **build_options,
            )  # fmt: skip
    yield from _describe(outcome)
    option = f" --knowledge_dir={folder}" if folder else ""
    name = outcome.knowledge.name
    yield f"Use it: run_recbole --model=LLM4MSR --dataset={config['dataset']} --knowledge={name}{option}"


def _made_by(train: Any, template: Template, facts: Facts, max_tokens: int | None) -> dict[str, Any]:
    """Collect what the prompts depend on: equal contents make equal prompts."""
    return {
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
            "max_tokens": max_tokens,
        },
    }


def _with_text(prompts: Prompts, facts: Facts) -> Generator[str, None, Prompts]:
    """Return the prompts of the items that have a text; yield lines about the others.

    Raises:
        InputError: no item has a text.
    """
    kept = [row for row, text in enumerate(prompts.texts) if text]
    if not kept:
        raise InputError("no item has a text: a profile is made of the texts of items")
    if len(kept) < len(prompts):
        yield (
            f"{len(prompts) - len(kept)} of {len(prompts)} items have no text, and so no vector: a model learns one "
            "for all of them."
        )
        prompts = prompts.of(kept)
    if missing := rows_without_vector(facts, prompts.tokens):
        yield f"{missing} training rows are of items without a vector: profiles are made without them."
    return prompts


def _describe(outcome: Outcome) -> Iterator[str]:
    knowledge = outcome.knowledge
    if outcome.found == knowledge.name:
        yield f"Nothing to do: the knowledge '{knowledge.name}' is built already, from the same prompts and encoder."
    elif outcome.found:
        yield f"Nothing to encode: '{outcome.found}' was built from the same prompts and encoder and is shared."
    else:
        yield f"Encoded {outcome.encoded} prompts in {knowledge.meta['seconds']:g} s."
    counts = ", ".join(f"{knowledge.meta['levels'][level]['rows']} {level}" for level in knowledge.levels)
    vectors = f"vectors of size {knowledge.size}, {knowledge.meta['dtype']}"
    yield f"Knowledge '{knowledge.name}': {counts} {vectors}, in {knowledge.path}"
    for level in knowledge.levels:
        if parts := knowledge.parts(level):
            listed = ", ".join(f"{part} ({size})" for part, size in parts.items())
            yield f"Parts of a {level}'s profile, with their sizes: {listed}"


def _split(
    dataset: str | None, files: Sequence[str | Path], settings: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Split settings into those of prompts and store, of the encoder, and of RecBole."""
    settings = {key: value for key, value in settings.items() if value is not None}
    given = merge_settings(files, settings, template=settings.get("template"), encoder=settings.get("encoder"))
    merged = place_tables(given, dataset)
    if dataset is not None:
        merged["dataset"] = dataset
    check_paths(merged)
    options = {key: take(key, maybe(kind), merged.pop(key)) for key, kind in KNOWLEDGE_KEYS.items() if key in merged}
    options = {key: value for key, value in options.items() if value is not None}
    encoder = {key: merged.pop(key) for key in option_names() if key in merged}
    return options, encoder, merged


def _levels(levels: Any) -> list[str]:
    """Read levels from `[user, item]`, "user" or "user,item", in their fixed order."""
    if levels is None:
        return list(LEVELS)
    listed = [part.strip() for part in levels.split(",")] if isinstance(levels, str) else levels
    if not isinstance(listed, Sequence) or not listed:
        raise InputError(f"levels must list some of {', '.join(LEVELS)}, got {levels!r}")
    for level in listed:
        if level not in LEVELS:
            raise InputError(f"there is no level '{level}'{nearest(level, LEVELS) or '.'} Levels: {', '.join(LEVELS)}.")
    return [level for level in LEVELS if level in listed]


def _template(options: Mapping[str, Any]) -> Template:
    return Template.load(str(options.get("template") or "full"), options.get("language"), options.get("max_items"))


def _windows(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `build_prompts` is told of long prompts; nothing where they are cut, which is the default."""
    if options.get("long_prompts", "cut") == "cut":
        return {}
    return {"long_prompts": "windows", "all_items": options.get("max_items") is None}


def _facts(train: Any, options: Mapping[str, Any]) -> Facts:
    return Facts(train, options.get("title_field"), options.get("category_field"), options.get("liked"))


def _config(settings: Mapping[str, Any]) -> Any:
    settings = dict(settings)
    model, dataset = settings.pop("model", _MODEL), settings.pop("dataset", None)
    if not dataset:
        raise InputError("no dataset given: --dataset=NAME, or 'dataset: NAME' in a configuration file")
    return training_config(model, dataset, settings)


def _train_split(config: Any) -> Any:
    """Read the training split; RecBole's messages about it are silenced."""
    from recbole.data import create_dataset

    from recbole_msr.data.dataset import ScenarioDataset
    from recbole_msr.data.rows_report import log_rows

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
    """Yield a line for each level with prompts that were too long."""
    window = min((limit for limit in (encoder.window, max_tokens) if limit is not None), default=None)
    for level in prompts:
        if level.windows > len(level):
            yield (
                f"{level.level} prompts are read in {level.windows} windows of at most {window} tokens, "
                f"{level.windows / len(level):.1f} each."
            )
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
