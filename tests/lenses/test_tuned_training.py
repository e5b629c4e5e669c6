"""Training a tuned lens: what was planted is found, what is trained on what decides what is shown, and a stop changes nothing."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from slm_interp import hooked
from slm_interp.errors import ReadoutError, VocabularyError
from slm_interp.lenses import Aim, LogitLens, TunedLens, TunedRecipe, train_tuned
from slm_interp.lenses.tuned.data import batch_of, batches, rows_of, sides
from slm_interp.lenses.tuned.training import Run
from slm_interp.metrics import kl_divergence
from slm_interp.model import SpeechTextModel
from slm_interp.utterance import Utterance
from tests.lenses.planted_translation import CODES, hidden_text, of_one_unit, repeated_units, repeated_words
from tests.replicas import WORDS

SMALL = TunedRecipe(batch=200, passes=2, least_squares=200, look_every=2, held_out=0.2)


def rows(slm: SpeechTextModel, count: int = 12, length: int = 60, kind: str | None = None) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.arange(1, 31) if kind is None else slm.vocabulary.mask(kind).nonzero().flatten()[-20:]
    return [ids[torch.randint(len(ids), (length,), generator=generator)] for _ in range(count)]


def kl(lens: TunedLens, tokens: Tensor, layer: int, among: Tensor | None = None) -> float:
    """By the textbook, not by the training's own formula."""
    resid, unembedding = hooked.residuals(lens.slm.model, tokens), hooked.unembedding(lens.slm.model)
    said = (lens.scores(resid[layer], layer) @ unembedding.W_U + unembedding.b_U).float()
    return float(kl_divergence(hooked.logits(lens.slm.model, tokens[None])[0].float(), said, among).mean())


# -- what is found -------------------------------------------------------------------------------------


def test_an_affine_map_to_the_last_residual_is_found(tiny_slm: SpeechTextModel) -> None:
    slm = of_one_unit(tiny_slm)
    lens = train_tuned(slm, rows(slm, kind="speech"), recipe=dataclasses.replace(SMALL, ridge=0.0, passes=6, damping=1e-4))
    fresh = torch.cat(rows(slm, 2, kind="speech"))
    resid = hooked.residuals(slm.model, fresh)
    for layer in range(3):
        assert kl(TunedLens.untrained(slm), fresh, layer) > 0.1
        assert kl(lens, fresh, layer) < 1e-3
        assert torch.cosine_similarity(lens.translated(resid[layer], layer), resid[-1], dim=-1).min() > 0.999


def test_the_divergence_on_rows_it_never_saw_falls_and_is_the_one_it_reports(tiny_slm: SpeechTextModel) -> None:
    lens = train_tuned(tiny_slm, rows(tiny_slm, 24), recipe=SMALL)
    held = sides(rows_of(tiny_slm, rows(tiny_slm, 24), Aim()), SMALL.held_out, SMALL.held_out_positions, SMALL.seed)[1].tokens
    for one in lens.trained["held_out"]:
        if one["modality"] == "all":
            assert one["kl"] < one["logit_lens"]
            assert one["kl"] == pytest.approx(sum(kl(lens, tokens, one["layer"]) for tokens in held) / len(held), rel=1e-4)
            start = TunedLens.untrained(tiny_slm)
            assert one["logit_lens"] == pytest.approx(sum(kl(start, tokens, one["layer"]) for tokens in held) / len(held), rel=1e-4)
    assert set(lens.history.modality) == {"all", "speech", "text"}
    assert lens.history.groupby("layer").size().nunique() == 1


def test_newton_s_steps_go_below_the_first_guess(tiny_slm: SpeechTextModel) -> None:
    looks = train_tuned(tiny_slm, rows(tiny_slm, 24), recipe=SMALL).history.query("modality == 'all'").groupby("layer").kl
    assert (looks.last() < 0.95 * looks.nth(1).to_numpy()).all()


def test_a_lens_is_never_worse_on_the_held_out_side_than_the_logit_lens(tiny_slm: SpeechTextModel) -> None:
    """Too few rows for 600 weights a layer, and no pull towards the logit lens."""
    wild = dataclasses.replace(SMALL, damping=1e-8, ridge=0.0, offset=0.5, batch=20, least_squares=20)
    lens = train_tuned(tiny_slm, rows(tiny_slm, 6), recipe=wild)
    assert all(one["kl"] <= one["logit_lens"] for one in lens.trained["held_out"] if one["modality"] == "all")


def test_what_it_is_trained_at_decides_whether_it_shows_the_word_or_hides_it(tiny_slm: SpeechTextModel) -> None:
    slm = hidden_text(tiny_slm)
    corpus = repeated_units(slm, 10) + repeated_words(slm, 10)
    recipe = dataclasses.replace(SMALL, batch=60, passes=8, least_squares=300)
    units = torch.cat([row[:3] for row in repeated_units(slm, 10)[::4]])
    words = torch.tensor([slm.word_ids(WORDS[code])[0] for code in range(CODES)]).repeat_interleave(3)
    following = slm.vocabulary.unit_to_id((torch.arange(CODES) + 1) % CODES).repeat_interleave(3)
    resid = torch.cat([hooked.residuals(slm.model, row[:3]) for row in repeated_units(slm, 10)[::4]], 1)
    assert len(units) == len(words)

    def shown(lens: Any) -> Tensor:
        return (lens.scores(resid[1], 1) @ hooked.unembedding(slm.model).W_U).argmax(-1)

    assert torch.equal((resid[-1] @ hooked.unembedding(slm.model).W_U).argmax(-1), following)
    assert torch.equal(shown(LogitLens(slm)), words)
    assert torch.equal(shown(train_tuned(slm, corpus, Aim("text"), recipe)), words)
    assert torch.equal(shown(train_tuned(slm, corpus, Aim("speech"), recipe)), following)
    among_text = train_tuned(slm, corpus, Aim("speech", "text"), recipe)  # at the end all words are alike: it shows none
    mass = (among_text.scores(resid[1], 1) @ hooked.unembedding(slm.model).W_U)[:, slm.vocabulary.mask("text")].softmax(-1)
    assert mass.amax(-1).max() < 0.5


def test_only_the_ids_that_are_compared_count(tiny_slm: SpeechTextModel) -> None:
    speech = tiny_slm.vocabulary.mask("speech")
    corpus, fresh = rows(tiny_slm, 24), torch.cat(rows(tiny_slm, 3))
    joint, own = (train_tuned(tiny_slm, corpus, Aim("all", one), SMALL, layers=[1]) for one in ("joint", "speech"))
    assert kl(own, fresh, 1, speech) < kl(joint, fresh, 1, speech)
    assert kl(joint, fresh, 1) < kl(own, fresh, 1)
    assert own.name == "tuned[all positions, speech vocabulary]"


def test_equal_shares_help_the_modality_that_is_rarer(tiny_slm: SpeechTextModel) -> None:
    corpus = rows(tiny_slm, 16, kind="speech") + rows(tiny_slm, 2, kind="text")
    rare: dict[str, dict[str, float]] = {}
    for weighting in ("position", "modality"):
        lens = train_tuned(tiny_slm, corpus, Aim("all", weighting=weighting), SMALL, layers=[1])  # type: ignore[arg-type]
        rare[weighting] = {kind: kl(lens, torch.cat(rows(tiny_slm, 3, kind=kind)), 1) for kind in ("speech", "text")}
    assert rare["modality"]["text"] < rare["position"]["text"]
    assert rare["modality"]["speech"] > rare["position"]["speech"]


def test_shares_of_the_modalities_are_equal_and_markers_count_one(tiny_slm: SpeechTextModel) -> None:
    tokens = torch.cat([torch.full((30,), 15), torch.full((10,), 3), torch.tensor([31, 32])])
    weights = rows_of(tiny_slm, [tokens], Aim("all", weighting="modality")).weights[0]
    assert float(weights[:30].sum()) == pytest.approx(20) and float(weights[30:40].sum()) == pytest.approx(20)
    assert weights[40:].tolist() == [1, 1]


# -- how it runs ---------------------------------------------------------------------------------------


def test_a_training_that_was_stopped_ends_with_the_same_lens(
    tiny_slm: SpeechTextModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_tuned(tiny_slm, rows(tiny_slm), recipe=SMALL)
    step = Run._step

    def stop(self: Run, progress: Any, *rest: Any) -> None:
        if progress.step == 3:
            raise KeyboardInterrupt
        step(self, progress, *rest)

    monkeypatch.setattr(Run, "_step", stop)
    with pytest.raises(KeyboardInterrupt):
        train_tuned(tiny_slm, rows(tiny_slm), recipe=SMALL, checkpoint=tmp_path)
    taken: list[int] = []
    monkeypatch.setattr(Run, "_step", lambda self, progress, *rest: (taken.append(progress.step), step(self, progress, *rest)))
    gone_on = train_tuned(tiny_slm, rows(tiny_slm), recipe=SMALL, checkpoint=tmp_path)
    assert taken[0] == 2  # the last look before the stop
    assert gone_on.hash == whole.hash
    assert gone_on.history.equals(whole.history)
    with pytest.raises(ReadoutError, match=r"another lens: its aim is all positions, joint vocabulary, this one's text positions"):
        train_tuned(tiny_slm, rows(tiny_slm), Aim("text"), SMALL, checkpoint=tmp_path)


def test_a_layer_that_no_longer_improves_stops(tiny_slm: SpeechTextModel) -> None:
    impatient = dataclasses.replace(SMALL, passes=40, patience=1, look_every=1, batch=400)
    lens = train_tuned(tiny_slm, rows(tiny_slm, 5), recipe=impatient)
    assert lens.trained["steps"] < 40  # a step a pass
    looks = lens.history[lens.history.modality == "all"].groupby("layer").kl
    assert (looks.apply(lambda kl: kl.iloc[-1] > 0.999 * kl.iloc[:-1].min())).all()


def test_logits_exist_for_a_block_of_rows_of_one_layer_only(tiny_slm: SpeechTextModel) -> None:
    n_ids, block, widest = tiny_slm.vocabulary.size, 30, [0]

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = function(*args, **(kwargs or {}))
            for one in out if isinstance(out, (tuple, list)) else [out]:
                if isinstance(one, Tensor) and one.ndim and one.shape[-1] == n_ids:
                    widest[0] = max(widest[0], one.numel() // n_ids)
            return out

    recipe = dataclasses.replace(SMALL, passes=1, memory=block * 3 * n_ids * 4)
    with Watch():
        lens = train_tuned(tiny_slm, rows(tiny_slm), recipe=recipe)
    assert widest[0] == block  # a layer has 200 rows in a batch; d_model is 24
    assert lens.weight.abs().max() > 0


def test_a_model_in_bfloat16_is_trained_in_float32(tiny_slm: SpeechTextModel) -> None:
    model = copy.deepcopy(tiny_slm.model)
    model.cfg.dtype = torch.bfloat16
    half = dataclasses.replace(tiny_slm, model=model.to(torch.bfloat16))
    ours, wide = (train_tuned(one, rows(tiny_slm, 20), recipe=SMALL) for one in (half, tiny_slm))
    assert ours.weight.dtype == torch.float32
    fresh = torch.cat(rows(tiny_slm, 3))
    for layer in range(3):
        assert kl(ours, fresh, layer) == pytest.approx(kl(wide, fresh, layer), rel=0.15)
        assert kl(ours, fresh, layer) < kl(TunedLens.untrained(half), fresh, layer)


def test_layer_norm_and_dead_rows_are_served_too(speech_only_slm: SpeechTextModel) -> None:
    lens = train_tuned(speech_only_slm, rows(speech_only_slm, 20, kind="speech"), recipe=SMALL)
    assert all(one["kl"] < one["logit_lens"] for one in lens.trained["held_out"] if one["modality"] == "all")


def test_the_model_is_left_as_it_was(tiny_slm: SpeechTextModel) -> None:
    before = {name: tensor.clone() for name, tensor in hooked.parameters(tiny_slm.model).items()}
    train_tuned(tiny_slm, rows(tiny_slm), recipe=dataclasses.replace(SMALL, passes=1))
    assert all(torch.equal(before[name], tensor) for name, tensor in hooked.parameters(tiny_slm.model).items())


# -- what it reads -------------------------------------------------------------------------------------


def test_no_row_is_on_both_sides_and_repeats_count_once(tiny_slm: SpeechTextModel) -> None:
    ten = rows(tiny_slm, 10)
    kept = rows_of(tiny_slm, ten + ten, Aim())
    assert len(kept) == 10
    train, held = sides(kept, 0.3, 10_000, 0)
    assert len(held) == 3
    assert not {row.numpy().tobytes() for row in train.tokens} & {row.numpy().tobytes() for row in held.tokens}
    assert len(sides(kept, 0.5, 125, 0)[1]) == 2  # rows of 60 positions


def test_every_row_is_in_one_batch_of_a_pass(tiny_slm: SpeechTextModel) -> None:
    kept = rows_of(tiny_slm, rows(tiny_slm, 23), Aim())
    first, second = (batches(kept, 250, 0, epoch) for epoch in (0, 1))
    assert sorted(one for some in first for one in some) == list(range(23))
    assert first != second
    assert min(60 * len(some) for some in first) >= 125


def test_residuals_are_those_of_the_chosen_positions_in_the_order_of_the_rows(tiny_slm: SpeechTextModel) -> None:
    kept = rows_of(tiny_slm, rows(tiny_slm, 4), Aim("speech"))
    batch = batch_of(tiny_slm, kept, [1], [2, 0])
    expected = torch.cat([hooked.residuals(tiny_slm.model, kept.tokens[one])[:, kept.chosen[one]] for one in (2, 0)], 1)
    torch.testing.assert_close(batch.resid[0], expected[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(batch.final, expected[-1], rtol=1e-4, atol=1e-5)


def test_utterances_and_rows_of_ids_are_read_alike(tiny_slm: SpeechTextModel, spoken: Utterance) -> None:
    from_rows, from_utterance = (rows_of(tiny_slm, [one], Aim("speech")) for one in (spoken.tokens, spoken))
    assert from_rows.hash == from_utterance.hash
    assert from_rows.positions == int(tiny_slm.vocabulary.mask("speech")[spoken.tokens].sum())


def test_what_cannot_be_trained_on_is_refused(tiny_slm: SpeechTextModel, spoken: Utterance, as_users_run_it: None) -> None:
    two = rows(tiny_slm, 2)
    for arguments, error, sentence in (
        ({"sequences": []}, ReadoutError, "No sequence has a position to train at: the aim is all positions"),
        ({"sequences": rows(tiny_slm, 2, kind="speech"), "aim": Aim("text")}, ReadoutError, "the aim is text positions"),
        ({"sequences": [two[0], two[0]]}, ReadoutError, "two different rows at least, one of them held out"),
        ({"sequences": two, "layers": [3]}, ReadoutError, r"0 \(embedding\) to 2; got \[3\]"),
        ({"sequences": [torch.stack(two)]}, ReadoutError, r"one row of ids, shape \(pos,\); got shape \(2, 60\)"),
        ({"sequences": [torch.tensor([99])]}, VocabularyError, "Ids must lie in"),
        ({"sequences": [dataclasses.replace(spoken, quantiser="another")]}, VocabularyError, "quantiser"),
        (
            {"sequences": rows(tiny_slm, 2, kind="speech"), "aim": Aim(weighting="modality")},
            ReadoutError,
            "needs speech and text positions",
        ),
    ):
        with pytest.raises(error, match=sentence):
            train_tuned(tiny_slm, **arguments)  # type: ignore[arg-type]
    for option, sentence in (({"batch": 0}, "batch must be positive; got 0"), ({"ridge": -1.0}, "ridge"), ({"damping": 0.0}, "damping")):
        with pytest.raises(ReadoutError, match=sentence):
            TunedRecipe(**option)


def test_a_model_whose_residuals_are_not_finite_is_refused(tiny_slm: SpeechTextModel) -> None:
    broken = dataclasses.replace(tiny_slm, model=copy.deepcopy(tiny_slm.model))
    with torch.no_grad():
        broken.model.blocks[1].mlp.W_out[:] = torch.nan
    with pytest.raises(ReadoutError, match="not finite, first at layer 2"):
        train_tuned(broken, rows(tiny_slm))


def test_a_row_longer_than_the_context_is_refused(speech_only_slm: SpeechTextModel) -> None:
    long = [torch.randint(2, 20, (speech_only_slm.model.cfg.n_ctx + 1,)) for _ in range(2)]
    with pytest.raises(ReadoutError, match="reads at most 64 positions; a row has 65"):
        train_tuned(speech_only_slm, long)
