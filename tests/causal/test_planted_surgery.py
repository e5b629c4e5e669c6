"""A shadow added to a trained organism: speech is what it was, to the bits that float64 has; the lens reads words that nothing else reads."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import slm_interp as si
from slm_interp import hooked
from slm_interp.causal.planted.surgery import SMALL, Shadowed, shadowed
from slm_interp.errors import PatchingError
from slm_interp.hooked.installed import MAJOR
from slm_interp.lenses.directions import directions_of, first_pieces
from slm_interp.lenses.probe import collect, train_probe
from slm_interp.model import SpeechTextModel
from slm_interp.organisms.samples import read_samples
from slm_interp.patching.interventions import ComplementOnly, Erase, Interchange, SwapCoordinates
from slm_interp.utterance import Utterance

EXACT = 1e-9 if MAJOR == 3 else 5e-4  # of the logits' spread; TransformerLens 4 computes norms and attention in float32
LAYER = 6


@pytest.fixture(scope="module")
def organism() -> SpeechTextModel:
    return si.load("tiny-overlapped", dtype=torch.float64)


@pytest.fixture(scope="module")
def utterances(organism) -> list[Utterance]:
    return [sample.utterance(organism) for sample in read_samples(organism.folder)[:6]]


@pytest.fixture(scope="module")
def states(organism, utterances):
    return collect(organism, utterances, layers=[LAYER])


@pytest.fixture(scope="module")
def grafted(organism, states) -> Shadowed:
    return shadowed(organism, states, LAYER)


def speech(slm: SpeechTextModel, heard: Utterance, hooks: tuple = ()) -> torch.Tensor:
    logits = slm.model.run_with_hooks(heard.tokens[None], fwd_hooks=list(hooks), prepend_bos=False)[0].detach()
    return logits[:, slm.vocabulary.mask("speech")]


def apart(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest difference, in spreads of what is wanted."""
    return float((found - wanted).abs().max() / (wanted.max() - wanted.min()))


def directions(grafted: Shadowed, words: tuple[str, ...] | None = None) -> torch.Tensor:
    return directions_of(grafted.slm, first_pieces(grafted.slm, words or grafted.words))


def test_every_logit_of_speech_is_that_of_the_organism_at_every_position(organism, grafted, utterances):
    for heard in utterances:
        assert apart(speech(grafted.slm, heard), speech(organism, heard)) < EXACT


def test_the_stream_of_the_organism_is_in_the_wider_one(organism, grafted, utterances):
    own, wider = (hooked.residuals(one.model, utterances[0].tokens) for one in (organism, grafted.slm))
    kept = torch.cat([wider[:LAYER], wider[LAYER + 1 :]])[..., : grafted.added.start]
    torch.testing.assert_close(kept, own, rtol=0, atol=(1e-9 if MAJOR == 3 else 1e-3) * float(own.std()))


def test_what_is_added_is_small(grafted, utterances):
    for heard in utterances:
        resid = hooked.residuals(grafted.slm.model, heard.tokens)[LAYER + 1]
        added = resid[[word.span.stop - 1 for word in heard.words]][:, grafted.added.start :]
        own = resid[[word.span.stop - 1 for word in heard.words]][:, : grafted.added.start]
        assert 0 < float((added.norm(dim=-1) / own.norm(dim=-1)).max()) < 10 * SMALL


def test_the_lens_ranks_first_among_all_ids_the_word_that_the_probe_names(organism, grafted, states, utterances):
    probe = train_probe(states, layers=[LAYER])
    right = []
    for heard in utterances:
        own, wider = (hooked.residuals(one.model, heard.tokens) for one in (organism, grafted.slm))
        for word in heard.words:
            at = word.span.stop - 1
            named = probe.classes[int(probe.scores(own[LAYER, at], LAYER).argmax())]
            first = hooked.final_norm(grafted.slm.model, wider[LAYER + 1, at]) @ hooked.unembedding(grafted.slm.model).W_U.detach()
            assert int(first.argmax()) == grafted.slm.word_ids(named)[0]
            right.append(named == word.text)
    assert sum(right) / len(right) > 0.9


@pytest.mark.parametrize("layer", [LAYER + 1, 10, 13])
def test_no_unit_moves_when_text_is_erased_or_swapped_at_every_position(grafted, utterances, layer):
    heard, rows = utterances[0], directions(grafted)
    wanted = speech(grafted.slm, heard)
    first, second = directions(grafted, (heard.words[0].text, heard.words[1].text))
    for edit in (Erase(rows), SwapCoordinates(first, second)):
        assert apart(speech(grafted.slm, heard, (edit.hook("resid_post", layer, None),)), wanted) < EXACT


def test_the_swap_changes_what_the_lens_reads_all_the_same(grafted, utterances):
    heard = utterances[0]
    word, other = heard.words[0], heard.words[1].text
    first, second = directions(grafted, (word.text, other))
    resid = hooked.residuals(grafted.slm.model, heard.tokens)[LAYER + 1, word.span.stop - 1][None, None]
    W_U = hooked.unembedding(grafted.slm.model).W_U.detach()
    changed = hooked.final_norm(grafted.slm.model, SwapCoordinates(first, second)(resid, None)[0, 0]) @ W_U
    ids = [grafted.slm.word_ids(one)[0] for one in (word.text, other)]
    before = hooked.final_norm(grafted.slm.model, resid[0, 0]) @ W_U
    assert before[ids[0]] > before[ids[1]] and changed[ids[1]] > changed[ids[0]]
    assert changed[ids[1]] == pytest.approx(float(before[ids[0]]), rel=0.05)


def test_a_whole_patch_and_one_of_everything_but_text_do_what_a_whole_patch_does_to_the_organism(organism, grafted, utterances):
    heard, other = utterances[0], utterances[1]
    at, source = heard.words[1].span.stop - 1, other.words[1].span.stop - 1
    own = hooked.residuals(organism.model, other.tokens)[LAYER, source]
    wanted = speech(organism, heard, (Interchange(own[None]).hook("resid_post", LAYER, [at]),))
    assert apart(wanted, speech(organism, heard)) > 0.01
    wider = hooked.residuals(grafted.slm.model, other.tokens)[LAYER + 1, source][None]
    for edit in (Interchange(wider), ComplementOnly(directions(grafted), wider)):
        assert apart(speech(grafted.slm, heard, (edit.hook("resid_post", LAYER + 1, [at]),)), wanted) < EXACT


def test_saved_it_is_an_ordinary_checkpoint(organism, states, grafted, utterances, tmp_path):
    kept = shadowed(organism, states, LAYER, folder=tmp_path)
    again = si.load(tmp_path)
    assert torch.equal(again.logits(utterances[0]), grafted.slm.logits(utterances[0]))
    assert kept.slm.folder == tmp_path and again.quantiser.hash == organism.quantiser.hash


def test_another_seed_is_another_rotation_of_the_same_text(organism, states, grafted, utterances):
    other = shadowed(organism, states, LAYER, seed=1)
    one, two = (hooked.residuals(each.slm.model, utterances[0].tokens)[LAYER + 1][:, grafted.added.start :] for each in (grafted, other))
    assert not torch.allclose(one, two, atol=0.1 * float(one.std()))
    torch.testing.assert_close(one.norm(dim=-1), two.norm(dim=-1), rtol=1e-3 if MAJOR == 4 else 1e-6, atol=0)


def test_in_float32_the_units_move_by_a_hundred_thousandth(utterances):
    organism = si.load("tiny-overlapped", dtype=torch.float32)
    grafted = shadowed(organism, collect(organism, utterances, layers=[LAYER]), LAYER)
    heard = utterances[0]
    wanted = speech(organism, heard)
    assert apart(speech(grafted.slm, heard), wanted) < 1e-5
    assert apart(speech(grafted.slm, heard, (Erase(directions(grafted)).hook("resid_post", LAYER + 1, None),)), wanted) < 1e-5


def test_models_that_cannot_be_widened_are_refused(organism, states):
    with pytest.raises(PatchingError, match="takes float32 or float64; got torch.bfloat16"):
        shadowed(si.load("tiny-overlapped"), states, LAYER)
    with pytest.raises(PatchingError, match=r"this one has no folder. Load it with si.load"):
        shadowed(replace(organism, folder=None), states, LAYER)
