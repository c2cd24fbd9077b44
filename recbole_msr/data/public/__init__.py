"""Public datasets by name: from their original files to RecBole's atomic files, with a preset."""

from recbole_msr.data.public.convert import convert

__all__ = ["convert"]
