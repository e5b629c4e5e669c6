"""Erasure in continuous speech: on planted models its price is known; the runs are those of plain hooks; controls hold as much variance."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch

from slm_interp import hooked
from slm_interp.causal.bases import LensBasis
from slm_interp.causal.erasure import Erasure, erasure
from slm_interp.causal.erasure.running import Asked, Erasers, after_erasure, costs, positions_of
from slm_interp.causal.erasure.spaces import Cloud, Space, spaces_of
from slm_interp.causal.planted import Planted
from slm_interp.errors import PatchingError
from slm_interp.lenses import LogitLens
from slm_interp.patching.interventions import CopyCoordinates
from tests.causal.planted_cases import planted, spoken


def asked(model: Planted, layers: tuple = (2,), **options: object) -> Erasure:
    basis = LensBasis(LogitLens(model.slm), model.slm)
    options = {"ranks": (0,), "draws": 2, "progress": False} | options
    return erasure(model.slm, spoken(model, 36), spoken(model, 8, seed=7), basis, model.lexicon.words, layers, **options)


@cache
def found(kind: str) -> Erasure:
    return asked(planted(kind))


def rise(result: Erasure, arm: str, where: str = "onset") -> float:
    own = result.table[(result.table["arm"] == arm) & (result.table["where"] == where)]
    return float(own["rise"].mean())


def test_where_text_drives_speech_its_erasure_costs_the_onset_of_the_next_word_and_controls_do_not() -> None:
    mediated = found("mediated")
    assert rise(mediated, "text") > 0.8
    assert abs(rise(mediated, "variance")) < 0.3
    assert abs(rise(mediated, "random")) < 0.3


def test_where_text_is_a_shadow_its_erasure_costs_the_onset_nothing() -> None:
    assert abs(rise(found("shadow"), "text")) < 1e-4


def test_leace_takes_the_word_in_every_code_so_it_costs_where_text_is_a_shadow_too() -> None:
    assert rise(found("shadow"), "leace") > 0.5
    assert rise(found("mediated"), "leace") > 0.5


def test_afterwards_the_lens_guesses_and_a_fresh_probe_still_reads_what_is_in_another_code() -> None:
    read = found("shadow").verified.set_index("arm")
    assert read.loc["none", "lens"] == 1
    assert read.loc["none", "probe"] > 0.9
    assert read.loc["text", "lens"] < 0.3
    assert read.loc["text", "probe"] > 0.9
    assert read.loc["variance", "lens"] == 1
    assert read.loc["leace", "probe"] < 0.4


def test_controls_have_the_rank_and_the_variance_that_text_has() -> None:
    table = found("shadow").table.drop_duplicates(["arm", "draw"]).set_index(["arm", "draw"])
    assert table.loc[("variance", 0), "variance"] == pytest.approx(table.loc[("text", 0), "variance"], rel=1e-6)
    assert set(table["dimensions"].drop(("leace", 0))) == {9}
    assert 0 < table.loc[("text", 0), "variance"] < 1


def test_as_much_variance_is_exact_wherever_it_lies_within_what_neighbours_hold() -> None:
    cloud = Cloud.of(torch.randn(200, 10) * torch.arange(1, 11))
    for share in (0.1, 0.2, 0.4):
        rows = cloud.as_large(3, share)
        torch.testing.assert_close(rows @ rows.T, torch.eye(3, dtype=torch.float64))
        assert cloud.share(rows, rows) == pytest.approx(share, abs=1e-9)
    assert cloud.share(cloud.as_large(3, 0.99), cloud.as_large(3, 0.99)) == pytest.approx(float(cloud.variances[:3].sum()))


def spaces(model: Planted, layer: int) -> list[Space]:
    resid = torch.cat(
        [
            hooked.residuals(model.slm.model, one.tokens)[layer, one.words[0].span.start : one.words[0].span.stop]
            for one in spoken(model, 20)
        ]
    )
    basis = LensBasis(LogitLens(model.slm), model.slm)
    return spaces_of(Cloud.of(resid), basis.directions(layer, model.lexicon.words), (3, 0), 1, torch.Generator().manual_seed(0))


def test_a_band_is_every_layer_of_it_erased_as_by_plain_hooks() -> None:
    model = planted("mediated")
    utterance = spoken(model, 1)[0]
    at = positions_of(model.slm, utterance, "words")
    there = {layer: spaces(model, layer) for layer in (2, 3)}
    erasers = {layer: Erasers.of(some, torch.zeros(1, dtype=torch.float64)) for layer, some in there.items()}
    units = Asked.of(model.slm, utterance, int(at[0]))
    nll, kl = costs(model.slm, utterance, erasers, at, units)
    stood = after_erasure(model.slm, utterance, erasers, at)
    ids = model.slm.vocabulary.mask("speech").nonzero().flatten()
    for run in range(len(there[2])):
        hooks = [CopyCoordinates(some[run].left, some[run].mean).hook("resid_post", layer, at.tolist()) for layer, some in there.items()]
        kept: list[torch.Tensor] = []
        hooks += [("blocks.2.hook_resid_post", lambda value, hook, kept=kept: kept.append(value))]
        logits = model.slm.model.run_with_hooks(utterance.tokens[None], prepend_bos=False, fwd_hooks=hooks)[0][units.pos][
            :, ids
        ].log_softmax(-1)
        right = torch.searchsorted(ids, utterance.tokens[units.pos + 1])
        torch.testing.assert_close(nll[run + 1], -logits.gather(-1, right[:, None])[:, 0], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(stood[run + 1], kept[0][0], rtol=1e-9, atol=1e-6)
    plain = model.slm.model(utterance.tokens[None], prepend_bos=False)[0][units.pos][:, ids].log_softmax(-1)
    torch.testing.assert_close(nll[0], -plain.gather(-1, right[:, None])[:, 0], rtol=1e-6, atol=1e-6)
    assert float(kl[0].abs().max()) == 0
    assert (kl[1:] >= -1e-12).all()


def test_units_are_those_that_what_is_erased_can_reach() -> None:
    model = planted("shadow")
    utterance = spoken(model, 1)[0]
    heard, said = (word.span for word in utterance.words)
    units = Asked.of(model.slm, utterance, heard.start)
    by_place = {
        where: [int(pos) + 1 for pos, one in zip(units.pos, units.where, strict=True) if one == where]
        for where in ("onset", "inside", "outside")
    }
    assert by_place["onset"] == [said.start]
    assert by_place["inside"] == [heard.start + 1, said.start + 1]
    assert min(by_place["outside"]) == heard.stop
    assert len(positions_of(model.slm, utterance, "speech")) == int(model.slm.vocabulary.mask("speech")[utterance.tokens].sum())
    assert positions_of(model.slm, utterance, "words").tolist() == [*heard, *said]


def test_a_summary_has_intervals_and_sets_text_beside_its_controls() -> None:
    table = found("mediated").summary(100).set_index(["arm", "where"])
    text = table.loc[("text", "onset")]
    assert text["low"] <= text["rise"] <= text["high"]
    assert text["beyond"] == pytest.approx(text["rise"] - table.loc[("variance", "onset"), "rise"])
    assert text["percentile"] == 1
    assert text["units"] == 8


def test_results_are_saved_and_shown(tmp_path: Path) -> None:
    own = found("shadow")
    own.save(tmp_path)
    again = Erasure.load(tmp_path)
    assert again.table.equals(own.table) and again.verified.equals(own.verified)
    assert again.about["basis"] == "logit"
    assert "8 utterances" in repr(again)
    assert "percentile" in own._repr_html_()
    with pytest.raises(PatchingError, match=r"No erasure.json"):
        Erasure.load(tmp_path / "nowhere")


def test_what_cannot_be_asked_is_refused() -> None:
    model = planted("shadow")
    same = spoken(model, 4)
    basis = LensBasis(LogitLens(model.slm), model.slm)
    with pytest.raises(PatchingError, match="4 of them on both sides"):
        erasure(model.slm, same, same, basis, model.lexicon.words, (2,), progress=False)
    with pytest.raises(PatchingError, match=r"bands are \(first, last\); got \(3, 2\)"):
        asked(model, layers=((3, 2),))
    with pytest.raises(PatchingError, match="got 9"):
        asked(model, layers=(9,))
    with pytest.raises(PatchingError, match="an eighth of d_model 64"):
        asked(model, ranks=(9,))
    with pytest.raises(PatchingError, match="Positions are 'words' or 'speech'; got 'all'"):
        asked(model, positions="all")
