"""Choosing clips by quota: shares, determinism, and what adding clips does to those chosen."""

from __future__ import annotations

import random

import pytest

from manifests.policy.mix import choose, quotas

SHARES = {"none": 0.5, "single": 0.3, "multi": 0.2}


def clips(count: int, seed: int = 0, weights: tuple[int, ...] = (5, 8, 2)) -> dict[str, str]:
    rng = random.Random(seed)
    kinds = rng.choices(list(SHARES), weights, k=count)
    return {f"{seed}-{index:05d}": kind for index, kind in enumerate(kinds)}


def shares_of(groups: dict[str, str], chosen: set[str]) -> dict[str, float]:
    return {group: sum(groups[clip] == group for clip in chosen) / len(chosen) for group in SHARES}


@pytest.mark.parametrize("seed", range(5))
def test_shares_are_within_two_percent_of_their_targets(seed: int) -> None:
    groups = clips(1000, seed)
    chosen = choose(groups, SHARES, seed=seed)
    for group, share in shares_of(groups, chosen).items():
        assert share == pytest.approx(SHARES[group], abs=0.02)
    # As many as the scarcest group allows: another clip of any group would break the shares.
    supply = {group: sum(kind == group for kind in groups.values()) for group in SHARES}
    assert len(chosen) >= min(supply[group] / SHARES[group] for group in SHARES) - len(SHARES)


def test_the_choice_is_a_function_of_the_ids_not_of_their_order() -> None:
    groups = clips(500)
    turned = dict(reversed(groups.items()))
    assert choose(groups, SHARES) == choose(turned, SHARES)
    assert choose(groups, SHARES) != choose(groups, SHARES, seed=1)


def test_added_clips_take_no_place_from_those_that_have_one() -> None:
    groups = clips(500)
    before = choose(groups, SHARES)
    more = {**groups, **clips(700, seed=1)}
    after = choose(more, SHARES, incumbents=before)
    assert before < after
    for group, share in shares_of(more, after).items():
        assert share == pytest.approx(SHARES[group], abs=0.02)


def test_clips_of_one_group_alone_change_nothing_for_the_others() -> None:
    groups = clips(500)
    before = choose(groups, SHARES)
    more = groups | {f"new-{index}": "none" for index in range(1000)}
    assert choose(more, SHARES, incumbents=before) >= before


def test_groups_without_supply_leave_their_share_to_the_others() -> None:
    assert quotas({"none": 100, "single": 60}, SHARES) == {"none": 100, "single": 60}
    assert quotas({}, SHARES) == {}


def test_a_number_of_clips_is_kept_to_and_a_short_group_gives_what_it_has() -> None:
    found = quotas({"none": 1000, "single": 1000, "multi": 5}, SHARES, clips=100)
    assert found == {"none": 50, "single": 30, "multi": 5}


def test_groups_that_no_share_names_are_not_chosen() -> None:
    assert choose({"a": "crowd", "b": "none"}, SHARES) == {"b"}
