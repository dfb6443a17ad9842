"""A word has one vector, wherever it stands and whatever stands beside it."""

from __future__ import annotations

import torch

from training.text.word_encoder import WordEncoder, WordTextSettings


def encoder() -> WordEncoder:
    torch.manual_seed(0)
    built = WordTextSettings(kind="words", dim=16, length=6, vectors=512).build()
    torch.nn.init.zeros_(built.places)
    return built


def test_a_word_is_the_same_in_other_company() -> None:
    first, second = encoder()(["a red ball", "the lamp is Red."])
    torch.testing.assert_close(first[1], second[3])
    assert not torch.allclose(first[1], first[2])


def test_its_place_is_told() -> None:
    built = WordTextSettings(kind="words", dim=16, length=6).build()
    (tokens,) = built(["red red"])
    assert not torch.allclose(tokens[0], tokens[1])


def test_what_is_not_there_is_zero_and_what_is_too_long_is_cut() -> None:
    nothing, short, long = encoder()(["", "two words", "one two three four five six seven"])
    assert nothing.abs().sum() == 0
    assert short[2:].abs().sum() == 0
    assert (short[:2].abs().sum(1) > 0).all()
    assert long.shape == (6, 16)
    torch.testing.assert_close(long, encoder()(["one two three four five six"])[0])


def test_marks_are_words_of_their_own() -> None:
    marked, plain = encoder()(["<AUDCAP>beep", "beep"])
    torch.testing.assert_close(marked[3], plain[0])
