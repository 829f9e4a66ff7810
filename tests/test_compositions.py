"""Compositions: what the grammar takes, what it refuses, and how episodes are shared out."""

from __future__ import annotations

import pytest

from jaxoff.data.compositions import Part, parse, sizes


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("[r m e]", [(1.0, (0, 1, 2))]),
        ("[m*3]", [(1.0, (1, 1, 1))]),
        ("[r e*2]", [(1.0, (0, 2, 2))]),
        ("100% [r r r]", [(1.0, (0, 0, 0))]),
        ("50%[r r r]+50%[r r m]", [(0.5, (0, 0, 0)), (0.5, (0, 0, 1))]),
        (" 12.5 % [r*2 m]  +  87.5% [ e  e*2 ] ", [(0.125, (0, 0, 1)), (0.875, (2, 2, 2))]),
        (
            "33.3%[r*3]+33.3%[m*3]+33.4%[e*3]",
            [(0.333, (0, 0, 0)), (0.333, (1, 1, 1)), (0.334, (2, 2, 2))],
        ),
    ],
)
def test_a_composition_is_shares_and_levels(text, wanted):
    assert [(round(part.share, 9), part.levels) for part in parse(text, 3)] == wanted


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"composition '': expected SHARE% \[LEVELS\], found ''"),
        ("r r m", r"expected SHARE% \[LEVELS\], found 'r r m'"),
        ("50%[r r r]+", r"expected SHARE% \[LEVELS\], found ''"),
        ("50[r r r]+50[r r m]", r"expected SHARE% \[LEVELS\], found '50\[r r r\]'"),
        ("-50%[r r r]+150%[r r m]", r"expected SHARE% \[LEVELS\], found '-50%\[r r r\]'"),
        ("[r r x]", r"composition '\[r r x\]': expected levels r, m, e or such as m\*3, found 'x'"),
        ("[r rm]", r"expected levels r, m, e or such as m\*3, found 'rm'"),
        ("[r*0 m*3]", r"found 'r\*0'"),
        ("[r m]", r"expected 3 agents in \[r m\], found 2"),
        ("[m*4]", r"expected 3 agents in \[m\*4\], found 4"),
        ("[]", r"expected 3 agents in \[\], found 0"),
        ("50%[r r r]+40%[r r m]", r"expected shares that add up to 100%, found 90%"),
        ("[r r r]+[r r m]", r"expected shares that add up to 100%, found 200%"),
        ("50%[r r r]", r"expected shares that add up to 100%, found 50%"),
    ],
)
def test_a_wrong_composition_is_refused_with_what_was_found(text, message):
    with pytest.raises(ValueError, match=message):
        parse(text, 3)


@pytest.mark.parametrize(
    ("shares", "episodes", "wanted"),
    [
        ((1.0,), 7, [7]),
        ((0.5, 0.5), 10_000, [5000, 5000]),
        ((0.995, 0.005), 10_000, [9950, 50]),
        ((0.5, 0.5), 5, [2, 3]),  # rounded to even; the last part takes the rest
        ((0.333, 0.333, 0.334), 10, [3, 3, 4]),
    ],
)
def test_parts_share_all_episodes(shares, episodes, wanted):
    assert sizes([Part(share, (0,)) for share in shares], episodes) == wanted


@pytest.mark.parametrize(
    ("shares", "episodes"),
    [((0.5, 0.5), 1), ((0.995, 0.005), 50), ((0.005, 0.995), 50), ((1.0,), 0)],
)
def test_a_part_without_an_episode_is_refused(shares, episodes):
    parts = [Part(share, (0,)) for share in shares]
    with pytest.raises(
        ValueError,
        match=(
            f"episodes: expected enough for at least one in each of {len(parts)} parts, "
            f"found {episodes}"
        ),
    ):
        sizes(parts, episodes)
