"""The families of cases, by name."""

from tests.fuzz.case import Family
from tests.fuzz.families import (
    atomic,
    code,
    command_line,
    declarations,
    files,
    rows,
    settings,
    spaces,
    unchanged,
    yaml_files,
)

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        unchanged.FAMILY,
        code.FAMILY,
        yaml_files.FAMILY,
        settings.FAMILY,
        declarations.FAMILY,
        command_line.FAMILY,
        atomic.FAMILY,
        files.CHECKPOINTS,
        files.RESULTS,
        files.STORES,
        files.JOURNALS,
        files.FOLDERS,
        rows.FAMILY,
        spaces.FAMILY,
    )
}
