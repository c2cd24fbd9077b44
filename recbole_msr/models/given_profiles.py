"""Profiles of users that come with the rows to score, in place of those of the store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

_ATTRIBUTE = "given_profiles"


@dataclass(frozen=True)
class GivenProfiles:
    """The profiles of a batch of B rows.

    Attributes:
        numbers: of each row's profile in `vectors` (B,), -1 for a row whose user has the store's, or the unknown one.
        vectors: the K profiles, of the parts that the run reads (K, P H), float32.
    """

    numbers: Tensor
    vectors: Tensor

    def put(self, of_rows: Tensor, of_profiles: Tensor) -> Tensor:
        """Return values (B, size), those of the rows with a profile replaced by those of the profiles (K, size)."""
        return of_profiles[self.numbers.clamp(min=0)].where((self.numbers >= 0).unsqueeze(1), of_rows)


def give_profiles(interaction: Any, profiles: GivenProfiles) -> None:
    """Let a batch carry profiles. They are no column: there are fewer of them than rows."""
    setattr(interaction, _ATTRIBUTE, profiles)


def given_profiles(interaction: Any) -> GivenProfiles | None:
    """Return the profiles that a batch carries; None where it has none."""
    profiles: GivenProfiles | None = getattr(interaction, _ATTRIBUTE, None)
    return profiles
