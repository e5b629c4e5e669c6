"""Serial planted models: which text is computed from which, and what the units are computed from, as identities in float64.

The edits are plain hooks at two places: the end of the heard word, and the last position of the prompt, where the next word's text stands.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TypeAlias

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

import slm_interp as si
from slm_interp import hooked
from slm_interp.causal.planted import SERIAL, Chain, Planted, plant, save
from slm_interp.causal.planted.compiler import GAIN
from slm_interp.errors import PatchingError
from slm_interp.hooked.installed import MAJOR
from slm_interp.utterance import Contrast, Utterance
from tests.causal.planted_text import coordinates, directions, text_part

EXACT = 1e-5 if MAJOR == 3 else 5e-4  # of the logits' spread
WORLDS = [(0, 128, 16), (3, 64, 9)]  # seed, d_model, words
# of the whole effect: a swap of the heard word's text, the same with the next word's text frozen, a swap of the next word's text
SHARES = {"serial": (1, 0, 1), "parallel": (1, 1, 0), "skipped": (0, 0, 1), "silent": (0, 0, 0), "branching": (1, 0.6, 0.4)}
Edit: TypeAlias = Callable[[Tensor], Tensor]
Edits: TypeAlias = dict[tuple[str, int], Edit]
"""By place, `word` or `cue`, and layer of `resid_post` in blocks run."""

cached = lru_cache(maxsize=None)(plant)


def planted(kind: str, world: tuple[int, int, int]) -> Planted:
    seed, d_model, n_words = world
    return cached(kind, 0.4 if kind == "branching" else None, seed=seed, d_model=d_model, n_words=n_words, n_contrasts=2)


everywhere = pytest.mark.parametrize("world", WORLDS, ids=lambda world: "seed{}-d{}-{}words".format(*world))
every_kind = pytest.mark.parametrize("kind", list(SERIAL))


# -- edits, as plain hooks ---------------------------------------------------------------------------


def at(heard: Utterance, place: str) -> int:
    return heard.words[0].span.stop - 1 if place == "word" else len(heard) - 1


def unit_logits(model: Planted, heard: Utterance, edits: Edits | None = None) -> Float[Tensor, " unit"]:
    """Logits of the units after a prompt, with edits of single positions."""

    def put(place: str, edit: Edit) -> Callable[[Tensor, object], Tensor]:
        def hook(resid: Tensor, hook: object) -> Tensor:
            changed = resid.clone()
            changed[0, at(heard, place)] = edit(resid[0, at(heard, place)])
            return changed

        return hook

    hooks = [(f"blocks.{layer - 1}.hook_resid_post", put(place, edit)) for (place, layer), edit in (edits or {}).items()]
    with torch.no_grad():
        logits = model.slm.model.run_with_hooks(heard.tokens[None], fwd_hooks=hooks, prepend_bos=False)
    return logits[0, -1, model.slm.vocabulary.mask("speech")]


def stream(model: Planted, heard: Utterance, place: str, layer: int) -> Float[Tensor, " d_model"]:
    return hooked.residuals(model.slm.model, heard.tokens)[layer, at(heard, place)]


def words_at(model: Planted, contrast: Contrast, place: str) -> tuple[str, str]:
    clean, corrupted = (one.words[0].text for one in (contrast.clean, contrast.corrupted))
    return (clean, corrupted) if place == "word" else (model.follower(clean), model.follower(corrupted))


def swapped(model: Planted, contrast: Contrast, place: str) -> Edit:
    rows = directions(model, words_at(model, contrast, place))

    def edit(resid: Tensor) -> Tensor:
        there = coordinates(resid, rows)
        return resid + (there.flip(-1) - there) @ rows

    return edit


def text_of(model: Planted, source: Tensor) -> Edit:
    """Text coordinates of a source, everything else left: a freeze where the source is the run as it was."""
    return lambda resid: resid - text_part(model, resid) + text_part(model, source)


def spread(logits: Tensor) -> float:
    return float(logits.max() - logits.min())


def share(model: Planted, contrast: Contrast, edits: Edits) -> float:
    """How much of the way from the clean to the corrupted logit difference edits of the clean run go."""
    ids = model.slm.vocabulary.mask("speech").nonzero().flatten()
    answer, distractor = (int((ids == one[0]).nonzero()) for one in (contrast.answer, contrast.distractor))
    clean, edited, corrupted = (
        float(logits[answer] - logits[distractor])
        for logits in (
            unit_logits(model, contrast.clean),
            unit_logits(model, contrast.clean, edits),
            unit_logits(model, contrast.corrupted),
        )
    )
    return (edited - clean) / (corrupted - clean)


def moved(model: Planted, contrast: Contrast, edits: Edits) -> float:
    before, after = unit_logits(model, contrast.clean), unit_logits(model, contrast.clean, edits)
    return float((after - before).abs().max()) / spread(before)


def pairs(model: Planted) -> list[tuple[Contrast, int, int]]:
    """Contrasts with a layer of each text, so that every layer has its turn."""
    return list(zip(model.contrasts, model.layers[: len(model.contrasts)], model.next_layers[: len(model.contrasts)], strict=True))


# -- what is there -----------------------------------------------------------------------------------


@everywhere
@every_kind
def test_the_lens_ranks_the_heard_word_first_at_its_end_and_the_next_word_first_at_the_cue(kind, world):
    model = planted(kind, world)
    for contrast, now, later in pairs(model):
        for heard in (contrast.clean, contrast.corrupted):
            word = heard.words[0].text
            for place, layer, wanted in (("word", now, word), ("cue", later, model.follower(word))):
                resid = stream(model, heard, place, layer)
                first, second = model.slm.model.unembed(hooked.final_norm(model.slm.model, resid)[None, None])[0, 0].topk(2)
                assert model.slm.label(int(second[0])).strip("▁ ") == wanted
                assert first[0] - first[1] > 0.25 * GAIN


@everywhere
@every_kind
def test_at_the_cue_text_coordinates_are_one_on_the_next_word_alone_and_stand_neither_before_nor_after(kind, world):
    model = planted(kind, world)
    rows = directions(model)
    for contrast in model.contrasts:
        following = model.lexicon.words.index(model.follower(contrast.clean.words[0].text))
        for layer in range(2, model.slm.model.cfg.n_layers + 1):
            there = coordinates(stream(model, contrast.clean, "cue", layer), rows) * rows[0].norm()
            wanted = torch.zeros_like(there)
            wanted[following] = float(layer in model.next_layers)
            torch.testing.assert_close(there, wanted, rtol=0, atol=EXACT)


@everywhere
@every_kind
def test_the_model_says_both_units_of_the_word_that_follows(kind, world):
    model = planted(kind, world)
    for contrast in model.contrasts:
        for heard, says in ((contrast.clean, contrast.answer), (contrast.corrupted, contrast.distractor)):
            logits = hooked.logits(model.slm.model, torch.cat([heard.tokens, says])[None])[0]
            assert logits[len(heard) - 1 : len(heard) + 1].argmax(-1).tolist() == says.tolist()


# -- what is computed from what ----------------------------------------------------------------------


@everywhere
@every_kind
def test_swaps_move_the_planted_shares_alone_with_the_other_text_frozen_and_of_the_next_word(kind, world):
    model = planted(kind, world)
    current, around, later_alone = SHARES[kind]
    for contrast, now, later in pairs(model):
        swap = {("word", now): swapped(model, contrast, "word")}
        frozen = {("cue", later): text_of(model, stream(model, contrast.clean, "cue", later))}
        assert share(model, contrast, swap) == pytest.approx(current, abs=EXACT)
        assert share(model, contrast, {**swap, **frozen}) == pytest.approx(around, abs=EXACT)
        assert share(model, contrast, {("cue", later): swapped(model, contrast, "cue")}) == pytest.approx(later_alone, abs=EXACT)


@everywhere
@every_kind
def test_what_is_said_of_a_model_is_what_its_swaps_do(kind, world):
    model = planted(kind, world)
    chain = model.chain
    assert (chain.current, chain.around, chain.units) == pytest.approx(SHARES[kind])
    assert model.truth.text == pytest.approx(SHARES[kind][0]) and model.fraction == model.truth.text
    assert model.truth.verdict == {0: "epiphenomenal", 1: "text-mediated"}[SHARES[kind][0]]


@everywhere
@every_kind
def test_all_but_the_next_words_text_from_the_other_prompt_moves_the_rest(kind, world):
    model = planted(kind, world)
    for contrast, _, later in pairs(model):
        source = stream(model, contrast.corrupted, "cue", later)
        whole = unit_logits(model, contrast.clean, {("cue", later): lambda resid, source=source: source})
        wanted = unit_logits(model, contrast.corrupted)
        assert float((whole - wanted).abs().max()) < EXACT * spread(wanted)
        only = {("cue", later): lambda resid, source=source: source - text_part(model, source) + text_part(model, resid)}
        assert share(model, contrast, only) == pytest.approx(1 - SHARES[kind][2], abs=EXACT)


@everywhere
@pytest.mark.parametrize("kind", ["serial", "skipped"])
def test_where_text_of_the_next_word_drives_a_swap_says_the_other_word_and_its_erasure_forgets_the_word(kind, world):
    model = planted(kind, world)
    for contrast, _, later in pairs(model):
        wanted = unit_logits(model, contrast.corrupted)
        found = unit_logits(model, contrast.clean, {("cue", later): swapped(model, contrast, "cue")})
        assert float((found - wanted).abs().max()) < EXACT * spread(wanted)
        erased = {("cue", later): lambda resid: resid - text_part(model, resid)}
        clean, corrupted = (unit_logits(model, heard, erased) for heard in (contrast.clean, contrast.corrupted))
        assert float((clean - corrupted).abs().max()) < EXACT * spread(wanted)


@everywhere
@pytest.mark.parametrize("kind", ["parallel", "silent"])
def test_where_text_of_the_next_word_is_a_shadow_no_unit_moves_when_it_is_erased_or_swapped(kind, world):
    model = planted(kind, world)
    for contrast, _, later in pairs(model):
        assert moved(model, contrast, {("cue", later): swapped(model, contrast, "cue")}) < EXACT
        assert moved(model, contrast, {("cue", later): lambda resid: resid - text_part(model, resid)}) < EXACT


@everywhere
def test_serial_nothing_moves_when_the_heard_words_text_is_swapped_and_the_next_words_text_frozen(world):
    model = planted("serial", world)
    for contrast, now, later in pairs(model):
        frozen = {("cue", later): text_of(model, stream(model, contrast.clean, "cue", later))}
        assert moved(model, contrast, {("word", now): swapped(model, contrast, "word"), **frozen}) < EXACT


@everywhere
@every_kind
def test_the_next_words_text_is_written_from_the_heard_words_text_or_not(kind, world):
    model = planted(kind, world)
    rows = directions(model)
    for contrast, now, later in pairs(model):
        seen: list[Tensor] = []

        def look(resid: Tensor, seen: list[Tensor] = seen) -> Tensor:
            seen.append(coordinates(resid, rows) * rows[0].norm())
            return resid

        unit_logits(model, contrast.clean, {("word", now): swapped(model, contrast, "word"), ("cue", later): look})
        own, other = (model.lexicon.words.index(word) for word in words_at(model, contrast, "cue"))
        written = 0.0 if kind == "skipped" else 1.0
        assert seen[0][[own, other]].tolist() == pytest.approx([1 - written, written], abs=EXACT)


@everywhere
@every_kind
def test_text_left_at_the_cue_would_reach_the_units_past_every_block(kind, world):
    model = planted(kind, world)
    last = model.slm.model.cfg.n_layers
    contrast = model.contrasts[0]
    words = directions(model, words_at(model, contrast, "cue"))
    code = words[1] / words.norm(dim=-1)[1] - words[0] / words.norm(dim=-1)[0]
    assert moved(model, contrast, {("cue", last): lambda resid: resid + code}) > 0.01


@pytest.mark.parametrize("fraction", [0.1, 0.75])
def test_branching_has_the_fraction_it_was_asked_for(fraction):
    model = plant("branching", fraction, n_contrasts=1)
    assert model.chain == Chain(1.0, 1.0, fraction) and f"{fraction:g} through that of the next word" in repr(model)
    contrast, now, later = pairs(model)[0]
    frozen = {("cue", later): text_of(model, stream(model, contrast.clean, "cue", later))}
    assert share(model, contrast, {("word", now): swapped(model, contrast, "word"), **frozen}) == pytest.approx(1 - fraction, abs=EXACT)


# -- an ordinary model -------------------------------------------------------------------------------


def test_serial_kinds_differ_in_one_matrix_of_two_blocks_alone():
    states = [hooked.parameters(planted(kind, WORLDS[0]).slm.model) for kind in SERIAL]
    differ = {name for state in states[1:] for name in state if not torch.equal(state[name], states[0][name])}
    assert {name.split(".", 1)[1].replace("_W", "W") for name in differ} == {"3.attn.W_V", "5.mlp.W_in"}


def test_saved_and_loaded_it_is_the_same_model(tmp_path):
    model = planted("branching", WORLDS[0])
    save(model, tmp_path)
    slm = si.load(tmp_path, n_units=model.lexicon.n_units, quantiser="planted")
    heard = model.contrasts[0].clean
    assert torch.equal(slm.logits(heard), model.slm.logits(heard))


def test_in_float32_the_shares_hold_to_a_thousandth():
    model = plant("branching", 0.4, n_contrasts=1, dtype=torch.float32)
    contrast, now, later = pairs(model)[0]
    swap = {("word", now): swapped(model, contrast, "word")}
    frozen = {("cue", later): text_of(model, stream(model, contrast.clean, "cue", later))}
    assert share(model, contrast, swap) == pytest.approx(1, abs=1e-3)
    assert share(model, contrast, {**swap, **frozen}) == pytest.approx(0.6, abs=1e-3)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"kind": "serial", "fraction": 0.5}, "among serial kinds 'branching'; 'serial' has its own"),
        (
            {"kind": "branching"},
            "'branching' needs the share of the text path, 0 < fraction < 1; got None. The ends are parallel and serial",
        ),
    ],
)
def test_a_fraction_that_does_not_belong_is_refused(arguments, sentence):
    with pytest.raises(PatchingError, match=sentence):
        plant(**arguments)


def test_the_follower_of_a_word_it_does_not_hear_is_refused():
    with pytest.raises(PatchingError, match="This model hears apple, .*; got 'paris'"):
        planted("serial", WORLDS[0]).follower("paris")
