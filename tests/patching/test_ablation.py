"""Spans taken away: zeros, means of their modality over a stated corpus, positions of other utterances."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from slm_interp import hooked, patching
from slm_interp.errors import PatchingError
from slm_interp.model import SpeechTextModel
from slm_interp.patching import Means, Resampled, outcomes
from slm_interp.utterance import Contrast, Utterance
from tests.patching import plain
from tests.patching.conftest import prompt_of


@pytest.fixture
def corpus(tiny_slm: SpeechTextModel) -> list[Utterance]:
    spoken = [prompt_of(tiny_slm, {"see": [3, 4, 5], "sea": units}, f"spoken {number}") for number, units in enumerate(([9, 2], [7, 1, 6]))]
    return [*spoken, tiny_slm.then(spoken[0], "text"), tiny_slm.text_prompt(" the capital of france")]


def by_hand(slm: SpeechTextModel, contrast: Contrast, name: str, put: Any) -> float:
    return plain.score(slm, contrast.clean, contrast, outcomes.difference(), [(name, put)])


def test_zeros_have_the_numbers_of_plain_hooks(tiny_slm: SpeechTextModel, unequal: Contrast) -> None:
    found = patching.ablation(tiny_slm, unequal, "mlp_out", layers=[1])
    word = unequal.clean.words[1].span

    def put(value: Tensor, hook: Any) -> Tensor:
        value = value.clone()
        value[:, word.start : word.stop] = 0
        return value

    assert found.dataset["outcome"].values[0, 0, 1] == pytest.approx(by_hand(tiny_slm, unequal, "blocks.1.hook_mlp_out", put), abs=1e-5)
    assert found.dataset.attrs["direction"] == "ablation" and found.dataset.attrs["policy"] == "zero"
    assert np.allclose(found.effect(), found.dataset["outcome"] - found.dataset["clean"])


def test_a_zeroed_pattern_takes_away_what_its_destinations_gather(tiny_slm: SpeechTextModel, unequal: Contrast) -> None:
    pattern, z = (patching.ablation(tiny_slm, unequal, site, layers=[1]).dataset["outcome"].values for site in ("pattern", "z"))
    assert np.allclose(pattern, z, atol=1e-5)


def test_means_are_those_of_the_modality(tiny_slm: SpeechTextModel, corpus: list[Utterance]) -> None:
    found = patching.means(tiny_slm, corpus, ["resid_post", "k"])
    stream = {one.name or "text": hooked.stream(tiny_slm.model, one.tokens) for one in corpus}
    for kind in ("speech", "text", "marker"):
        chosen = [hooked.stream(tiny_slm.model, one.tokens)[:, tiny_slm.vocabulary.mask(kind)[one.tokens]] for one in corpus]
        wanted = torch.cat(chosen, 1).mean(1)
        assert torch.allclose(found.at("resid_post", range(4), None, [kind])[:, 0, 0], wanted, atol=1e-5)
    assert len(stream) and found.at("k", [2], [1], ["speech", "text"]).shape == (1, 1, 2, 6)
    assert "of speech" in repr(found) and found.dataset.attrs["utterances"] == 4


def test_a_mean_ablation_writes_the_mean_of_its_modality_and_names_the_corpus(
    tiny_slm: SpeechTextModel, unequal: Contrast, corpus: list[Utterance]
) -> None:
    own = patching.means(tiny_slm, corpus, ["v"])
    found = patching.ablation(tiny_slm, unequal, "v", what=own, layers=[1], heads=[1])
    word, mean = unequal.clean.words[0].span, own.at("v", [1], [1], ["speech"])[0, 0, 0]

    def put(value: Tensor, hook: Any) -> Tensor:
        value = value.clone()
        value[:, word.start : word.stop, 1] = mean
        return value

    assert found.dataset["outcome"].values[0, 0, 0, 0] == pytest.approx(by_hand(tiny_slm, unequal, "blocks.1.attn.hook_v", put), abs=1e-5)
    assert found.dataset.attrs["policy"] == f"mean(corpus={own.corpus})"


def test_saved_means_are_the_same_means(tiny_slm: SpeechTextModel, corpus: list[Utterance], tmp_path) -> None:
    own = patching.means(tiny_slm, corpus, ["z"])
    own.save(tmp_path / "means.nc")
    assert Means.load(tmp_path / "means.nc").dataset.identical(own.dataset)


def test_resampled_positions_are_real_ones_of_other_utterances(
    tiny_slm: SpeechTextModel, unequal: Contrast, corpus: list[Utterance]
) -> None:
    """With one donor of one speech position nothing is left to chance."""
    donor = prompt_of(tiny_slm, {"see": [4]}, "donor")
    found = patching.ablation(tiny_slm, unequal, "resid_pre", what=Resampled([unequal.clean, donor]), layers=[1])
    place = int(tiny_slm.vocabulary.mask("speech")[donor.tokens].nonzero()[0])
    there = hooked.stream(tiny_slm.model, donor.tokens, "resid_pre")[1, place]
    word = unequal.clean.words[2].span

    def put(value: Tensor, hook: Any) -> Tensor:
        value = value.clone()
        value[:, word.start : word.stop] = there
        return value

    assert found.dataset["outcome"].values[0, 0, 2] == pytest.approx(by_hand(tiny_slm, unequal, "blocks.1.hook_resid_pre", put), abs=1e-5)


def test_draws_depend_on_the_seed_alone(tiny_slm: SpeechTextModel, unequal: Contrast, corpus: list[Utterance]) -> None:
    first, again, other = (
        patching.ablation(tiny_slm, unequal, what=Resampled(corpus, seed), layers=[1]).dataset["outcome"].values for seed in (0, 0, 1)
    )
    assert np.array_equal(first, again) and not np.allclose(first, other, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"what": "nothing"}, "A span is ablated by 'zero'"),
        ({"side": "source"}, "'clean' or 'corrupted'; got 'source'"),
    ],
)
@pytest.mark.usefixtures("as_users_run_it")
def test_what_is_no_ablation_is_refused(tiny_slm: SpeechTextModel, unequal: Contrast, options: dict, says: str) -> None:
    with pytest.raises(PatchingError, match=re.escape(says)):
        patching.ablation(tiny_slm, unequal, **options)


def test_means_of_another_site_or_modality_are_refused(tiny_slm: SpeechTextModel, unequal: Contrast, corpus: list[Utterance]) -> None:
    own = patching.means(tiny_slm, corpus[3:], ["z"])
    with pytest.raises(PatchingError, match="Means were taken at z; not at mlp_out"):
        patching.ablation(tiny_slm, unequal, "mlp_out", what=own)
    with pytest.raises(PatchingError, match="no position of kind speech"):
        patching.ablation(tiny_slm, unequal, "z", what=own)
    with pytest.raises(PatchingError, match="No other utterance of the corpus has a position of kind speech"):
        patching.ablation(tiny_slm, unequal, what=Resampled(corpus[3:]))
    with pytest.raises(PatchingError, match="need one utterance or more"):
        patching.means(tiny_slm, [])
    with pytest.raises(PatchingError, match="ablated by 'zero' alone"):
        patching.ablation(tiny_slm, unequal, "pattern", what=Resampled(corpus))
    with pytest.raises(PatchingError, match="has no mean over positions"):
        patching.means(tiny_slm, corpus, ["pattern"])


def test_contrasts_draw_apart_although_their_names_begin_alike(
    tiny_slm: SpeechTextModel, unequal: Contrast, corpus: list[Utterance]
) -> None:
    """One contrast under eight names: were they drawn alike, there would be one number."""
    alike = {f"names-of-a-kind-{number}": unequal for number in range(8)}
    found = patching.ablation(tiny_slm, alike, what=Resampled(corpus), layers=[1]).dataset["outcome"]
    assert len(np.unique(found.sel(span="word 1").values.round(6))) > 3


def test_means_of_another_model_are_refused(tiny_slm: SpeechTextModel, unequal: Contrast, corpus: list[Utterance]) -> None:
    own = patching.means(tiny_slm, corpus)
    foreign = Means(own.dataset.assign_attrs(fingerprint="another"))
    with pytest.raises(PatchingError, match="Means were taken from the model another; this is"):
        patching.ablation(tiny_slm, unequal, what=foreign)
