"""Planted models: every claim about them as an identity in float64, to 1e-5 of the spread of the units' logits.

The edits are plain hooks written here, along directions that the model's own unembedding gives, so that nothing of the compiler is taken on trust.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import TypeAlias

import pytest
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig

import slm_interp as si
from slm_interp import hooked
from slm_interp.causal.planted import KINDS, Planted, plant, save
from slm_interp.causal.planted.block import ROPE_THETA, SHARP, TURNING
from slm_interp.causal.planted.codes import codes_of, sizes_of
from slm_interp.causal.planted.compiler import GAIN
from slm_interp.causal.planted.lexicon import WORDS, lexicon_of
from slm_interp.causal.planted.planting import N_CTX
from slm_interp.convert.checkpoint import Checkpoint
from slm_interp.errors import PatchingError
from slm_interp.hooked.installed import MAJOR
from slm_interp.lenses.directions import directions_of
from slm_interp.utterance import Contrast, Utterance
from tests.causal.planted_text import coordinates, directions, text_part

EXACT = 1e-5 if MAJOR == 3 else 5e-4  # of the logits' spread; TransformerLens 4 does not compute these models in float64 throughout
SHARES = {"shadow": 0.0, "mediated": 1.0, "partial": 0.3}
WORLDS = [(0, 128, 16), (1, 128, 16), (2, 64, 9), (3, 256, 30)]  # seed, d_model, words
Edit: TypeAlias = Callable[[Tensor], Tensor]

cached = lru_cache(maxsize=None)(plant)


def planted(kind: str, world: tuple[int, int, int]) -> Planted:
    seed, d_model, n_words = world
    return cached(kind, SHARES["partial"] if kind == "partial" else None, seed=seed, d_model=d_model, n_words=n_words, n_contrasts=2)


everywhere = pytest.mark.parametrize("world", WORLDS, ids=lambda world: "seed{}-d{}-{}words".format(*world))
every_kind = pytest.mark.parametrize("kind", list(KINDS))
with_effect = pytest.mark.parametrize("kind", list(SHARES))


# -- edits, as plain hooks ---------------------------------------------------------------------------


def all_logits(model: Planted, heard: Utterance, layer: int | None = None, edit: Edit | None = None) -> Float[Tensor, "pos id"]:
    """Logits of a prompt, with an edit of `resid_post` after so many blocks at all positions of the word."""
    span = heard.words[0].span

    def put(resid: Tensor, hook: object) -> Tensor:
        changed = resid.clone()
        changed[0, span.start : span.stop] = edit(resid[0, span.start : span.stop])
        return changed

    hooks = [] if edit is None else [(f"blocks.{layer - 1}.hook_resid_post", put)]
    with torch.no_grad():
        logits = model.slm.model.run_with_hooks(heard.tokens[None], fwd_hooks=hooks, prepend_bos=False)
    return logits[0]


def unit_logits(model: Planted, heard: Utterance, layer: int | None = None, edit: Edit | None = None) -> Float[Tensor, " unit"]:
    """Logits of the units after a prompt."""
    return all_logits(model, heard, layer, edit)[-1, model.slm.vocabulary.mask("speech")]


def stream_at_word(model: Planted, heard: Utterance, layer: int) -> Float[Tensor, "pos d_model"]:
    span = heard.words[0].span
    return hooked.residuals(model.slm.model, heard.tokens)[layer, span.start : span.stop]


def swapped(model: Planted, contrast: Contrast) -> Edit:
    """The coordinates along the two words' directions exchanged, the rest left."""
    rows = directions(model, (contrast.clean.words[0].text, contrast.corrupted.words[0].text))

    def edit(resid: Tensor) -> Tensor:
        there = coordinates(resid, rows)
        return resid + (there.flip(-1) - there) @ rows

    return edit


def spread(logits: Tensor) -> float:
    return float(logits.max() - logits.min())


def moved(model: Planted, contrast: Contrast, layer: int, edit: Edit) -> float:
    """How far an edit of the clean run moves any unit's logit, in spreads."""
    before, after = unit_logits(model, contrast.clean), unit_logits(model, contrast.clean, layer, edit)
    return float((after - before).abs().max()) / spread(before)


def share(model: Planted, contrast: Contrast, layer: int, edit: Edit) -> float:
    """How much of the way from the clean to the corrupted logit difference an edit of the clean run goes."""
    ids = model.slm.vocabulary.mask("speech").nonzero().flatten()
    answer, distractor = ((ids == one[0]).nonzero() for one in (contrast.answer, contrast.distractor))
    clean, edited, corrupted = (
        float(logits[answer] - logits[distractor])
        for logits in (
            unit_logits(model, contrast.clean),
            unit_logits(model, contrast.clean, layer, edit),
            unit_logits(model, contrast.corrupted),
        )
    )
    return (edited - clean) / (corrupted - clean)


def each(model: Planted) -> list[tuple[Contrast, int]]:
    return [(contrast, layer) for contrast in model.contrasts for layer in model.layers]


# -- what is there -----------------------------------------------------------------------------------


@everywhere
@every_kind
def test_the_lens_ranks_the_heard_word_first_among_all_ids_at_the_end_of_its_span(kind, world):
    model = planted(kind, world)
    for contrast, layer in each(model):
        for heard in (contrast.clean, contrast.corrupted):
            resid = stream_at_word(model, heard, layer)[-1]
            joint = model.slm.model.unembed(hooked.final_norm(model.slm.model, resid)[None, None])[0, 0]
            first, second = joint.topk(2)
            assert model.slm.label(int(second[0])).strip("▁ ") == heard.words[0].text
            assert first[0] - first[1] > 0.25 * GAIN


@everywhere
@every_kind
def test_text_coordinates_are_one_on_the_heard_word_and_zero_elsewhere(kind, world):
    model = planted(kind, world)
    rows = directions(model)
    for contrast, layer in each(model):
        there = coordinates(stream_at_word(model, contrast.clean, layer)[-1], rows)
        wanted = torch.zeros_like(there)
        wanted[model.lexicon.words.index(contrast.clean.words[0].text)] = 1 / rows[0].norm()
        torch.testing.assert_close(there / wanted.max(), wanted / wanted.max(), rtol=0, atol=EXACT)


@everywhere
@with_effect
def test_the_model_says_the_word_that_follows_and_both_its_units(kind, world):
    model = planted(kind, world)
    for contrast in model.contrasts:
        for heard, says in ((contrast.clean, contrast.answer), (contrast.corrupted, contrast.distractor)):
            logits = hooked.logits(model.slm.model, torch.cat([heard.tokens, says])[None])[0]
            assert logits[len(heard) - 1 : len(heard) + 1].argmax(-1).tolist() == says.tolist()


@everywhere
def test_a_unit_alone_does_not_tell_the_word(world):
    lexicon = planted("shadow", world).lexicon
    for parts in (lexicon.onset, lexicon.coda):
        assert all(parts.count(one) > 1 for one in set(parts))
    assert all(following != word for word, following in enumerate(lexicon.following))


# -- the four answers --------------------------------------------------------------------------------


@everywhere
@with_effect
def test_a_whole_patch_of_the_span_gives_exactly_the_other_prompt(kind, world):
    model = planted(kind, world)
    for contrast, layer in each(model):
        source, wanted = stream_at_word(model, contrast.corrupted, layer), unit_logits(model, contrast.corrupted)
        found = unit_logits(model, contrast.clean, layer, lambda resid, source=source: source)
        assert float((found - wanted).abs().max()) < EXACT * spread(wanted)
        assert spread(unit_logits(model, contrast.clean) - wanted) > GAIN


@everywhere
def test_dead_nothing_moves_under_a_whole_patch_at_any_layer_nor_between_the_prompts(world):
    model = planted("dead", world)
    for contrast in model.contrasts:
        before, other = (unit_logits(model, heard) for heard in (contrast.clean, contrast.corrupted))
        assert float((before - other).abs().max()) < EXACT * spread(before)
        for layer in range(1, model.slm.model.cfg.n_layers + 1):
            source = stream_at_word(model, contrast.corrupted, layer)
            assert moved(model, contrast, layer, lambda resid, source=source: source) < EXACT


@everywhere
def test_shadow_nothing_moves_when_text_coordinates_are_erased_or_swapped(world):
    model = planted("shadow", world)
    for contrast, layer in each(model):
        assert moved(model, contrast, layer, lambda resid: resid - text_part(model, resid)) < EXACT
        assert moved(model, contrast, layer, swapped(model, contrast)) < EXACT


@everywhere
def test_mediated_nothing_moves_when_all_but_the_text_coordinates_comes_from_the_other_prompt(world):
    model = planted("mediated", world)
    for contrast, layer in each(model):
        source = stream_at_word(model, contrast.corrupted, layer)
        assert moved(model, contrast, layer, lambda resid, s=source: s - text_part(model, s) + text_part(model, resid)) < EXACT


@everywhere
def test_mediated_nothing_moves_when_all_but_the_text_coordinates_is_erased_to_its_mean(world):
    model = planted("mediated", world)
    for contrast, layer in each(model):
        heard = [stream_at_word(model, one, layer) for each_one in model.contrasts for one in (each_one.clean, each_one.corrupted)]
        others = torch.stack([resid - text_part(model, resid) for resid in heard])
        assert float((others - others.mean(0)).norm(dim=-1).min()) > 0.5  # there is something to erase
        mean = others.mean(0)
        assert moved(model, contrast, layer, lambda resid, mean=mean: mean + text_part(model, resid)) < EXACT


@everywhere
def test_mediated_a_swap_of_text_coordinates_says_the_other_word_entirely(world):
    model = planted("mediated", world)
    for contrast, layer in each(model):
        wanted = unit_logits(model, contrast.corrupted)
        found = unit_logits(model, contrast.clean, layer, swapped(model, contrast))
        assert float((found - wanted).abs().max()) < EXACT * spread(wanted)


@everywhere
def test_mediated_erasing_text_leaves_no_logit_that_depends_on_the_word(world):
    model = planted("mediated", world)
    for contrast, layer in each(model):
        clean, corrupted = (
            unit_logits(model, heard, layer, lambda resid: resid - text_part(model, resid))
            for heard in (contrast.clean, contrast.corrupted)
        )
        assert float((clean - corrupted).abs().max()) < EXACT * spread(unit_logits(model, contrast.clean))


@everywhere
@with_effect
def test_the_swap_moves_the_planted_fraction_and_the_complement_the_rest(kind, world):
    model = planted(kind, world)
    for contrast, layer in each(model):
        source = stream_at_word(model, contrast.corrupted, layer)
        assert share(model, contrast, layer, swapped(model, contrast)) == pytest.approx(SHARES[kind], abs=EXACT)
        only = share(model, contrast, layer, lambda resid, s=source: s - text_part(model, s) + text_part(model, resid))
        assert only == pytest.approx(1 - SHARES[kind], abs=EXACT)


@pytest.mark.parametrize("fraction", [0.05, 0.25, 0.5, 0.75, 0.95])
def test_partial_has_the_fraction_it_was_asked_for(fraction):
    model = plant("partial", fraction, n_contrasts=2)
    assert model.fraction == fraction and model.truth.verdict == "partly"
    for contrast, layer in each(model):
        assert share(model, contrast, layer, swapped(model, contrast)) == pytest.approx(fraction, abs=EXACT)


@with_effect
def test_half_a_swap_moves_half_as_much_and_a_negative_dose_the_other_way(kind):
    model = planted(kind, WORLDS[0])
    for contrast, layer in each(model):
        swap = swapped(model, contrast)
        for dose in (-1.0, 0.5, 2.0):
            found = share(model, contrast, layer, lambda resid, dose=dose, swap=swap: resid + dose * (swap(resid) - resid))
            assert found == pytest.approx(dose * SHARES[kind], abs=2 * EXACT)


def difference(model: Planted, contrast: Contrast, heard: Utterance, edit: Edit | None = None) -> float:
    """log p(answer) - log p(distractor) over both their units, among units."""
    found, speech, start = [], model.slm.vocabulary.mask("speech"), len(heard) - 1
    for says in (contrast.answer, contrast.distractor):
        longer = replace(
            heard, tokens=torch.cat([heard.tokens, says]), edges=torch.cat([heard.edges, heard.edges[-1:].repeat(2)]), labels=()
        )
        logits = all_logits(model, longer, model.layers[0], edit).masked_fill(~speech, -torch.inf).log_softmax(-1)
        found.append(float(logits[start : start + 2].gather(-1, says[:, None]).sum()))
    return found[0] - found[1]


def test_over_both_units_the_fraction_holds_to_a_hundredth():
    model = planted("partial", WORLDS[0])
    for contrast in model.contrasts:
        clean, corrupted = (difference(model, contrast, heard) for heard in (contrast.clean, contrast.corrupted))
        edited = difference(model, contrast, contrast.clean, swapped(model, contrast))
        assert (edited - clean) / (corrupted - clean) == pytest.approx(SHARES["partial"], abs=0.01)


def test_kinds_differ_in_one_matrix_alone():
    states = [hooked.parameters(planted(kind, WORLDS[0]).slm.model) for kind in KINDS]
    differ = {name for state in states[1:] for name in state if not torch.equal(state[name], states[0][name])}
    assert {name.rsplit(".", 1)[1].lstrip("_") for name in differ} == {"W_V"} and all(".3." in name for name in differ)


# -- nothing is too easy -----------------------------------------------------------------------------


@everywhere
def test_text_directions_lean_on_each_other_on_the_axes_and_on_speech_rows_of_both_ends(world):
    model = planted("mediated", world)
    rows = torch.nn.functional.normalize(directions(model), dim=-1)
    between = (rows @ rows.T - torch.eye(len(rows))).abs()
    assert between.max() > 0.3 and between.mean() > 0.05
    assert rows.abs().max() < 0.7  # no direction is an axis
    speech = model.slm.vocabulary.mask("speech")
    W_E, W_U = model.slm.model.W_E[speech].detach(), directions_of(model.slm, speech.nonzero().flatten().tolist())
    W_E = W_E - W_E.mean(0)
    for other in (W_E, W_U):
        overlap = (text_part(model, other).norm(dim=-1) / other.norm(dim=-1)).mean()
        assert 0.1 < float(overlap) < 0.9


@everywhere
def test_noise_at_the_word_differs_between_the_prompts_and_is_as_large_as_the_codes(world):
    model = planted("shadow", world)
    generator = torch.Generator().manual_seed(model.seed)
    lexicon = lexicon_of(len(model.lexicon.words), generator)
    noise = codes_of(lexicon, model.slm.model.cfg.d_model, generator).basis["noise"]
    for contrast, layer in each(model):
        here, there = (stream_at_word(model, heard, layer)[-1] @ noise.T for heard in (contrast.clean, contrast.corrupted))
        assert 0.3 < float((here - there).norm()) < 4
    same = [c for c in model.contrasts if torch.equal(c.clean.tokens[1:4], c.corrupted.tokens[1:4])]
    assert not same


@everywhere
def test_subspaces_are_orthonormal_and_the_dual_reads_oblique_coordinates(world):
    seed, d_model, n_words = world
    generator = torch.Generator().manual_seed(seed)
    codes = codes_of(lexicon_of(n_words, generator), d_model, generator)
    basis = torch.cat(list(codes.basis.values()))
    torch.testing.assert_close(basis @ basis.T, torch.eye(d_model, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(codes.dual @ codes.text.T, torch.eye(n_words, dtype=torch.float64), atol=1e-12, rtol=0)


def test_dot_products_in_place_of_oblique_coordinates_would_be_seen():
    model = planted("mediated", WORLDS[0])

    def naive(contrast: Contrast) -> Edit:
        rows = directions(model, (contrast.clean.words[0].text, contrast.corrupted.words[0].text))
        rows = rows / rows.norm(dim=-1, keepdim=True)
        return lambda resid: resid + ((resid @ rows.T).flip(-1) - resid @ rows.T) @ rows

    assert max(abs(share(model, one, layer, naive(one)) - 1) for one, layer in each(model)) > 0.01


# -- an ordinary checkpoint --------------------------------------------------------------------------


def test_saved_and_loaded_through_slamkits_door_it_is_the_same_model(tmp_path):
    model = planted("partial", WORLDS[0])
    save(model, tmp_path)
    slm = si.load(tmp_path, n_units=model.lexicon.n_units, quantiser="planted")
    heard = model.contrasts[0].clean
    assert torch.equal(slm.logits(heard), model.slm.logits(heard))


def test_transformers_computes_the_same_logits(tmp_path):
    model = planted("mediated", WORLDS[0])
    save(model, tmp_path)
    checkpoint = Checkpoint(tmp_path)
    source = AutoModelForCausalLM.from_config(LlamaConfig(**checkpoint.config["base_config"])).to(torch.float64).eval()
    source.load_state_dict({name: checkpoint.tensor(f"lm.{name}") for name in source.state_dict()})
    heard = model.contrasts[0].clean
    with torch.no_grad():
        theirs = source(heard.tokens[None]).logits[0]
    torch.testing.assert_close(model.slm.logits(heard), theirs, atol=1e-3, rtol=0)  # its norms and angles are float32


def test_the_sweep_of_the_package_finds_the_whole_effect_at_the_word_until_it_is_read():
    sweep = si.patching.activation(planted("partial", WORLDS[0]).slm, list(planted("partial", WORLDS[0]).contrasts))
    recovered = sweep.recovered().mean("contrast").isel(span=0)
    assert recovered.sel(layer=[0, 1, 2, 3]).values == pytest.approx(1, abs=1e-4)
    assert recovered.sel(layer=[4, 5]).values == pytest.approx(0, abs=1e-4)


def test_a_word_that_is_read_is_followed_as_one_that_is_heard():
    model = planted("partial", WORLDS[0])
    cue = model.slm.vocabulary.unit_to_id(torch.tensor([model.lexicon.unit_of[model.lexicon.cue]]))
    for contrast in model.contrasts:
        read = model.slm.text_prompt(contrast.clean.words[0].text, then="speech")
        logits = hooked.logits(model.slm.model, torch.cat([read.tokens, cue])[None])[0, -1]
        assert logits.argmax() == contrast.answer[0]


def test_in_float32_the_identities_hold_to_a_thousandth():
    for kind, wanted in SHARES.items():
        model = plant(kind, SHARES["partial"] if kind == "partial" else None, n_contrasts=2, dtype=torch.float32)
        for contrast, layer in each(model):
            assert share(model, contrast, layer, swapped(model, contrast)) == pytest.approx(wanted, abs=1e-3)


def test_the_same_seed_is_the_same_model_and_another_one_is_not():
    one, again, other = (plant("shadow", seed=seed, n_contrasts=1) for seed in (5, 5, 6))
    heard = one.contrasts[0].clean
    assert torch.equal(one.slm.logits(heard), again.slm.logits(heard)) and one.lexicon == again.lexicon
    assert other.lexicon != one.lexicon and not torch.equal(other.slm.model.W_E, one.slm.model.W_E)


def test_heads_look_one_back_by_a_wide_margin_at_every_distance_the_model_reads():
    distance = torch.arange(0, N_CTX, dtype=torch.float64) - 1
    for d_head in range(16, 90, 2):
        score = SHARP * sum(torch.cos(ROPE_THETA ** (-2 * pair / d_head) * distance) for pair in range(TURNING))
        assert float(score[1] - score[distance != 0].max()) > 70


# -- refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"kind": "ghost"}, "No planted model of kind 'ghost'; there are: shadow, mediated, partial, dead, and serial ones: serial,"),
        ({"kind": "shadow", "fraction": 0.5}, "Only 'partial' takes a fraction"),
        ({"kind": "partial"}, "'partial' needs the share of the text path, 0 < fraction < 1; got None"),
        ({"kind": "partial", "fraction": 1.0}, "The ends are shadow and mediated"),
        ({"kind": "partial", "fraction": float("nan")}, "got nan"),
        ({"kind": "dead", "n_words": 3}, f"4 to {len(WORDS)} words; got 3"),
        ({"kind": "dead", "d_model": 64}, "16 words need d_model"),
        ({"kind": "dead", "n_words": 4, "n_contrasts": 99}, "pairs whose followers share no unit; got n_contrasts=99"),
        ({"kind": "dead", "dtype": torch.bfloat16}, "takes float32 or float64; got torch.bfloat16"),
    ],
)
def test_what_cannot_be_planted_is_refused(arguments, sentence):
    with pytest.raises(PatchingError, match=sentence.replace("(", r"\(")):
        plant(**arguments)


def test_the_width_a_lexicon_needs_is_the_one_the_refusal_names():
    lexicon = lexicon_of(16, torch.Generator())
    with pytest.raises(PatchingError, match="need d_model (\\d+)") as refused:
        sizes_of(lexicon, 64)
    least = int(str(refused.value).split("d_model ")[1].split()[0])
    assert sum(sizes_of(lexicon, 128).values()) == 128 and least < 128


# -- noise -------------------------------------------------------------------------------------------


def logit_difference(model: Planted, contrast: Contrast, heard: Utterance, edit: Edit | None = None) -> float:
    """Of the answer's first unit and the distractor's, with an edit of the heard word at the first layer of its text."""
    logits = all_logits(model, heard, model.layers[0], edit)[-1]
    return float(logits[contrast.answer[0]] - logits[contrast.distractor[0]])


def test_with_noise_a_case_has_the_mean_share_of_its_two_words_and_all_words_have_the_planted_one():
    model = plant("partial", 0.3, n_contrasts=40, noise=0.2)
    words = model.lexicon.words
    half = torch.zeros(len(model.contrasts), len(words), dtype=torch.float64)
    moved = []
    for number, contrast in enumerate(model.contrasts):
        for heard in (contrast.clean, contrast.corrupted):
            half[number, words.index(heard.words[0].text)] = 0.5
        clean, edited = (logit_difference(model, contrast, contrast.clean, edit) for edit in (None, swapped(model, contrast)))
        moved.append((clean - edited) / (2 * GAIN))
    found = torch.tensor(moved, dtype=torch.float64)[:, None]
    by_word = torch.linalg.lstsq(half, found).solution[:, 0]
    assert float((half @ by_word - found[:, 0]).abs().max()) < 10 * EXACT
    assert float(by_word.mean()) == pytest.approx(0.3, abs=10 * EXACT)
    assert float(by_word.std(correction=0)) == pytest.approx(0.2, abs=10 * EXACT)


def test_noise_makes_whole_effects_differ_between_cases_around_the_planted_ceiling():
    found = {}
    for noise in (0.0, 0.2):
        model = plant("dead", n_contrasts=40, noise=noise)
        found[noise] = [
            logit_difference(model, contrast, contrast.clean) - logit_difference(model, contrast, contrast.corrupted)
            for contrast in model.contrasts
        ]
    assert max(map(abs, found[0.0])) < 1e-3
    noisy = torch.tensor(found[0.2])
    assert 0.5 < float(noisy.std()) / (0.2 * 2 * GAIN) < 2 and abs(float(noisy.mean())) < 3 * float(noisy.std()) / 40**0.5


def test_noise_is_refused_where_it_has_no_meaning():
    for arguments in ({"kind": "shadow", "noise": -0.1}, {"kind": "serial", "noise": 0.1}, {"kind": "dead", "noise": float("nan")}):
        with pytest.raises(PatchingError, match="Noise is 0 or a finite number above, for the kinds shadow, mediated, partial, dead"):
            plant(**arguments)
