"""How released files name a family's weights: a layout, and the tables that rename by it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping

_IN_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")


@dataclasses.dataclass(frozen=True)
class ReleasedLayout:
    """One way in which released files name a model's weights.

    Attributes:
        name: in recipes and commands.
        to_model: the model's name of a weight, by its name in a file; None for no such weight.
        to_file: the way back; None for weights that such files do not have.
        fresh: patterns of the model's weights that such files lack, though they fill the rest of
            the part that these belong to, and the factor that their initial values are given.
    """

    name: str
    to_model: Callable[[str], str | None]
    to_file: Callable[[str], str | None]
    fresh: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class ModuleNames:
    """Names of modules, ours to another's: those outside of blocks, and those within each block."""

    outside: Mapping[str, str]
    within_block: Mapping[str, str]

    def there(self, name: str) -> str | None:
        """Another's name of a weight of ours; None if no module here holds it."""
        return _renamed(name, self.outside, self.within_block)

    def ours(self, name: str) -> str | None:
        """Our name of another's weight; None if no module there holds it."""
        return _renamed(name, _turned(self.outside), _turned(self.within_block))


def _turned(names: Mapping[str, str]) -> dict[str, str]:
    return {theirs: ours for ours, theirs in names.items()}


def _renamed(name: str, outside: Mapping[str, str], within: Mapping[str, str]) -> str | None:
    if (match := _IN_BLOCK.fullmatch(name)) is not None:
        renamed = _prefix_renamed(match[2], within)
        return None if renamed is None else f"blocks.{match[1]}.{renamed}"
    return _prefix_renamed(name, outside)


def _prefix_renamed(name: str, names: Mapping[str, str]) -> str | None:
    """The name with its module, or the parameter that it is as a whole, renamed."""
    module, _, leaf = name.rpartition(".")
    if name in names:
        return names[name]
    return f"{names[module]}.{leaf}" if module in names else None
