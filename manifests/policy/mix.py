"""Choosing clips so that groups have target shares: a quota a group, filled by the clips' hashes.

The choice is a function of the clips' ids, of a seed and of what was chosen before: clips that have
a place keep it while there is room, so that what was captioned and packed is not lost when clips
are added.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping

MIX_VERSION = 1
"""Raise whenever the same clips may be chosen differently."""


def quotas(
    supply: Mapping[str, int], shares: Mapping[str, float], clips: int | None = None
) -> dict[str, int]:
    """How many clips of every group to keep.

    Without a number of clips it is the largest for which every group that has clips at all can give
    its share; the shares of groups without any go to the others in proportion. With one, a group
    that is too small gives what it has, and the others no more for it.

    Args:
        supply: clips by group.
        shares: target share by group, 0..1.
        clips: how many in all.
    """
    wanted = {group: share for group, share in shares.items() if share > 0}
    if clips is not None:
        return {
            group: min(supply.get(group, 0), round(share * clips))
            for group, share in wanted.items()
        }
    present = {group: share for group, share in wanted.items() if supply.get(group, 0) > 0}
    total = min((supply[group] / share for group, share in present.items()), default=0.0)
    # A hair above: the group that limits the rest must not lose a clip to rounding.
    return {group: int(total * share + 1e-6) for group, share in present.items()}


def choose(
    groups: Mapping[str, str],
    shares: Mapping[str, float],
    *,
    clips: int | None = None,
    seed: int = 0,
    incumbents: Collection[str] = (),
) -> set[str]:
    """The clips that have a place.

    Args:
        groups: group by clip_id, of all clips that compete.
        shares: target share by group.
        clips: how many in all, see `quotas`.
        seed: another choice.
        incumbents: clip_ids that had a place before.
    """
    members: dict[str, list[str]] = {}
    for clip_id, group in groups.items():
        members.setdefault(group, []).append(clip_id)
    supply = {group: len(ids) for group, ids in members.items()}
    chosen: set[str] = set()
    for group, quota in quotas(supply, shares, clips).items():
        ranked = sorted(
            members.get(group, []),
            key=lambda clip_id: (clip_id not in incumbents, _rank(clip_id, seed)),
        )
        chosen.update(ranked[:quota])
    return chosen


def _rank(clip_id: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{clip_id}".encode()).digest()
