"""The sentence under a reading: what it counts, and the chance it puts beside it."""

import numpy as np
import pytest
import xarray as xr

from slm_interp.errors import ReadoutError
from slm_interp.lenses.summary import best_ranks, summarise

WORDS = ["see", "the", "sea", "shine"]


def reading(ranks: np.ndarray, mass: np.ndarray | None = None, kinds: str = "speech") -> xr.Dataset:
    """A dataset of three layers and two positions a word; `ranks` is [layer, pos, target]."""
    positions = 2 * len(WORDS)
    mass = np.full((3, positions), 0.5) if mass is None else mass
    return xr.Dataset(
        {
            "modality_log_mass": (("layer", "pos", "modality"), np.log(np.stack([mass, 1 - mass], -1))),
            "target_rank": (("layer", "pos", "target"), ranks.astype(np.float32)),
        },
        {
            "kind": ("pos", [kinds] * positions),
            "modality": ["text", "speech"],
            "modality_size": ("modality", [90, 10]),
            "target_word": ("target", WORDS),
            "target_start": ("target", 2 * np.arange(len(WORDS))),
            "target_stop": ("target", 2 * np.arange(len(WORDS)) + 2),
        },
    )


def far() -> np.ndarray:
    return np.full((3, 2 * len(WORDS), len(WORDS)), 1000.0)


def test_a_word_is_decoded_if_it_ranks_below_k_anywhere_in_its_span_in_any_layer():
    ranks = far()
    ranks[1, 5, 2] = 9  # "sea", at the last position of its span
    found = summarise(reading(ranks), k=10)
    assert (found.current.hits, found.current.words) == (1, 4)
    assert summarise(reading(ranks), k=9).current.hits == 0


def test_one_position_outside_the_span_does_not_count():
    ranks = far()
    ranks[1, 6, 2] = 0  # "sea", once "shine" is being said
    assert summarise(reading(ranks)).current.hits == 0


def test_the_next_word_is_asked_within_the_span_of_the_word_before_it():
    ranks = far()
    ranks[2, 1, 1] = 0  # "the", while "see" is being said
    found = summarise(reading(ranks))
    assert (found.next.hits, found.next.words, found.current.hits) == (1, 3, 0)


def test_chance_pools_over_the_same_span_and_layers_as_the_hits():
    ranks = far()
    ranks[2, 7, 0] = 0  # "see", two words away, somewhere in the span of "shine"
    # of the words that are neither itself nor a neighbour: see: sea, shine; the: shine; sea: see; shine: see, the
    assert summarise(reading(ranks)).current.chance == pytest.approx((0 + 0 + 0 + 1 / 2) / 4)


def test_where_every_word_ranks_alike_everywhere_chance_is_the_score():
    found = summarise(reading(np.zeros_like(far())))
    assert found.current.hits == 4
    assert found.current.chance == 1.0
    assert found.next.chance == 1.0


def test_a_word_said_twice_is_no_control_of_itself_nor_of_its_neighbours():
    ranks = far()
    ranks[:, :, [0, 2]] = 0  # "see" readable everywhere, under both its numbers
    twice = reading(ranks).assign_coords(target_word=("target", ["see", "the", "see", "shine"]))
    # "see" is spelled like, or stands beside, every word but "the", whose only control is "shine"
    assert summarise(twice).current.chance == 0.0


def test_a_target_that_is_no_word_of_the_utterance_takes_no_part():
    ranks = far()
    ranks[0, 0, 3] = 0
    dataset = reading(ranks)
    dataset["target_start"][3] = dataset["target_stop"][3] = -1
    assert best_ranks(dataset).shape == (3, 3)
    assert summarise(dataset).current.words == 3


def test_mass_is_the_mean_over_speech_positions_beside_that_of_a_uniform_guess():
    mass = np.full((3, 8), 0.25)
    mass[1] = 0.75
    found = summarise(reading(far(), mass))
    assert found.text_mass == pytest.approx((0.25, 0.75, 0.25))
    assert found.peak == 1
    assert found.uniform_text_mass == pytest.approx(0.9)
    assert "25.0% at the embedding to 75.0% after 1 of 2 layers" in str(found)


def test_without_speech_there_is_nothing_to_sum_up():
    with pytest.raises(ReadoutError, match="an utterance with speech positions"):
        summarise(reading(far(), kinds="text"))
