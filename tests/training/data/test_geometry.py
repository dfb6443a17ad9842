"""Sizes that frames are brought to."""

from __future__ import annotations

import pytest

from training.data.geometry import fit_size


@pytest.mark.parametrize(
    ("size", "area_px", "multiple", "wanted"),
    [
        ((720, 720), 518_400, 32, (704, 704)),
        ((960, 960), 921_600, 32, (960, 960)),
        ((960, 540), 518_400, 32, (960, 544)),
        ((540, 960), 518_400, 32, (544, 960)),
        ((1000, 10), 2048, 8, (456, 8)),
    ],
)
def test_sizes_are_multiples_nearest_to_the_area(
    size: tuple[int, int], area_px: int, multiple: int, wanted: tuple[int, int]
) -> None:
    assert fit_size(*size, area_px=area_px, multiple=multiple) == wanted
