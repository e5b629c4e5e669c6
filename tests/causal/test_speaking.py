"""What is said after an intervention is what TransformerLens's own hooks make the model say, and on planted models it is the word that was put in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from slm_interp import causal, hooked
from slm_interp.causal import Case, Continuations, continuations
from slm_interp.causal.speaking import Sayable
from slm_interp.convert import load
from slm_interp.errors import PatchingError, SpeechError, VocabularyError
from slm_interp.hooked.installed import MAJOR
from slm_interp.lenses.logit import LogitLens
from slm_interp.model import SpeechTextModel
from slm_interp.patching import outcomes
from slm_interp.patching.interventions import ComplementOnly, SwapCoordinates
from slm_interp.patching.measuring import measure
from slm_interp.speech.recogniser import train_recogniser
from slm_interp.speech.units import Units
from slm_interp.speech.vocoder import UnitVocoder
from slm_interp.streams import repeats_are_merged
from slm_interp.utterance import Contrast
from slm_interp.vocabulary import IdRange, JointVocabulary
from tests.causal.made import AT, tiny_case
from tests.causal.planted_cases import cases, planted
from tests.replicas import N_UNITS, VARIANTS, text_tokenizer, write_slamkit

LAYER = 2
ARMS = ("whole", "text", "complement", "self")
FRAME = 640  # samples at 16 kHz


@pytest.fixture(scope="module")
def case(tiny_slm: SpeechTextModel) -> Case:
    return tiny_case(tiny_slm, "first")


@pytest.fixture(scope="module")
def found(tiny_slm: SpeechTextModel, case: Case) -> Continuations:
    return continuations(tiny_slm, case, LogitLens(tiny_slm), LAYER, ARMS, units=12)


@pytest.fixture(scope="module")
def three(found: Continuations) -> Continuations:
    """Of three runs: sounds take their time."""
    return replace(found, table=found.table[found.table["run"].isin(["corrupted", "clean", "whole"])].reset_index(drop=True))


def vocoder(quantiser: str = "tiny", unheard: tuple[int, ...] = ()) -> UnitVocoder:
    durations = np.full(N_UNITS, 2, dtype=np.float16)
    durations[list(unheard)] = 0
    spectra = np.linspace(-6, 0, N_UNITS)[:, None].repeat(201, 1)
    return UnitVocoder(spectra.astype(np.float16), durations, quantiser, FRAME, 16_000)


# -- plain hooks -----------------------------------------------------------------------------------------


def put_in(slm: SpeechTextModel, case: Case, arm: str) -> Tensor:
    """What an arm writes at the word, from TransformerLens's cache."""
    name = hooked.hook_at("resid_post", LAYER)
    clean, corrupted = (slm.model.run_with_cache(one.tokens[None], prepend_bos=False)[1][name][0] for one in (case.source, case.base))
    there, taken = corrupted[list(AT)], clean[list(AT)]
    words = LogitLens(slm).directions(LAYER, [case.words.clean, case.words.corrupted])
    return {
        "corrupted": lambda: there,
        "whole": lambda: taken,
        "text": lambda: SwapCoordinates(words[:1], words[1:])(there[None], None)[0],
        "complement": lambda: ComplementOnly(words, taken)(there[None], None)[0],
    }[arm]()


@torch.no_grad()
def plainly(slm: SpeechTextModel, case: Case, arm: str, units: int, merged: bool = True) -> tuple[list[int], list[float]]:
    """Greedy units by whole forwards of TransformerLens, the edit in each of them."""
    tokens, values, said, log_probs = case.base.tokens, put_in(slm, case, arm), [], []
    speech = slm.vocabulary.mask("speech")

    def put(resid: Tensor, hook: Any) -> Tensor:
        resid[:, list(AT)] = values
        return resid

    for _ in range(units):
        hooks = [(hooked.hook_at("resid_post", LAYER), put)]
        logits = slm.model.run_with_hooks(tokens[None], fwd_hooks=hooks, prepend_bos=False)[0, -1]
        found = logits.float().masked_fill(~speech, float("-inf")).log_softmax(-1)
        may = found.clone()
        if merged:
            may[tokens[-1]] = float("-inf")
        tokens = torch.cat([tokens, may.argmax()[None]])
        log_probs.append(float(found[tokens[-1]]))
        said.append(int(slm.vocabulary.id_to_unit(tokens[-1:])))
    return said, log_probs


@pytest.mark.parametrize("name", ["llama", "opt", "qwen2-windows", "mistral-window", "gpt_neox"])
def test_plain_hooks_on_the_whole_row_give_the_same_greedy_units_and_probabilities(name: str, tmp_path: Path) -> None:
    tokenizer = text_tokenizer()
    folder = write_slamkit(tmp_path / name, VARIANTS[name], vocab_size=len(tokenizer) + N_UNITS + 2)
    slm = load(folder, text_tokenizer=tokenizer, n_units=N_UNITS, quantiser="tiny")
    case = tiny_case(slm, "first")
    found = continuations(slm, case, LogitLens(slm), LAYER, ("whole", "text", "complement"), units=12)
    for arm in ("corrupted", "whole", "text", "complement"):
        units, log_probs = plainly(slm, case, arm, 12)
        assert found.units(arm).tolist() == units, arm
        np.testing.assert_allclose(found.table.loc[found.table["run"] == arm, "log_prob"], log_probs, atol=2e-4, err_msg=arm)
    late = found.table[(found.table["step"] > 0) & (found.table["run"] != "clean") & (found.table["run"] != "corrupted")]
    assert (late["log_prob"] - late["log_prob_unedited"]).abs().max() > 2e-3  # the edit is felt after the first step, or nothing was shown


def test_what_is_said_has_the_probability_that_the_experiment_gives_it(tiny_slm: SpeechTextModel, case: Case, found: Continuations) -> None:
    """Whole continuations, teacher-forced by the engine of the sweeps with the same arms in place."""
    for arm in ("whole", "text", "complement"):
        said = tiny_slm.vocabulary.unit_to_id(torch.tensor(found.units(arm)))
        asked = replace(case, contrast=Contrast(case.source, case.base, said, case.contrast.distractor))
        effect = causal.run(tiny_slm, [asked], LogitLens(tiny_slm), layers=[LAYER], arms=(arm,), outcome=outcomes.log_prob())
        row = effect.table[(effect.table["arm"] == arm) & (effect.table["dose"] == 1)].iloc[0]
        own = found.table[found.table["run"] == arm]
        assert own["log_prob"].sum() == pytest.approx(row["value"], abs=1e-3)
        assert own["log_prob_unedited"].sum() == pytest.approx(row["base"], abs=1e-3)
        assert found.summary.set_index("run").loc[arm, "gain"] == pytest.approx(row["effect"], abs=1e-3)


def test_the_unedited_probability_of_the_clean_run_is_that_after_the_corrupted_prompt(
    tiny_slm: SpeechTextModel, case: Case, found: Continuations
) -> None:
    said = tiny_slm.vocabulary.unit_to_id(torch.tensor(found.units("clean")))
    asked, own = replace(case.contrast, answer=said), found.table[found.table["run"] == "clean"]
    for prompt, column in ((case.source, "log_prob"), (case.base, "log_prob_unedited")):
        assert own[column].sum() == pytest.approx(measure(tiny_slm, prompt, asked, outcomes.log_prob()), abs=1e-3)


# -- planted models --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["shadow", "mediated"])
def test_with_everything_of_the_clean_word_the_model_says_what_follows_the_clean_word(kind: str) -> None:
    model = planted(kind)
    for one in cases(model)[:3]:
        found = continuations(model.slm, one, LogitLens(model.slm), model.layers[0], ("whole",), units=6)
        answer, distractor = (model.slm.vocabulary.id_to_unit(ids).tolist() for ids in (one.contrast.answer, one.contrast.distractor))
        assert found.units("whole")[:2].tolist() == found.units("clean")[:2].tolist() == answer
        assert found.units("corrupted")[:2].tolist() == distractor and found.first_difference("whole") == 0


def test_text_alone_makes_a_mediated_model_say_the_clean_answer_and_the_rest_says_the_corrupted_one() -> None:
    model = planted("mediated")
    for one in cases(model)[:3]:
        found = continuations(model.slm, one, LogitLens(model.slm), model.layers[0], ("text", "complement"), units=6)
        assert found.units("text")[:2].tolist() == model.slm.vocabulary.id_to_unit(one.contrast.answer).tolist()
        assert found.units("complement")[:2].tolist() == found.units("corrupted")[:2].tolist()


def test_text_leaves_what_a_shadow_model_says_unit_by_unit() -> None:
    model = planted("shadow")
    for one in cases(model)[:3]:
        found = continuations(model.slm, one, LogitLens(model.slm), model.layers[0], ("text", "complement"), units=12)
        assert found.units("text").tolist() == found.units("corrupted").tolist() and found.first_difference("text") is None
        assert found.units("complement")[:2].tolist() == model.slm.vocabulary.id_to_unit(one.contrast.answer).tolist()


def test_at_a_layer_after_the_word_was_read_nothing_of_it_changes_what_is_said() -> None:
    model = planted("mediated")
    one = cases(model)[0]
    last = model.slm.model.cfg.n_layers
    found = continuations(model.slm, one, LogitLens(model.slm), last, ("whole",), units=6)
    assert found.first_difference("whole") is None


# -- what changes nothing --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("seed", [None, 3])
def test_what_stands_there_already_changes_nothing_by_a_bit(tmp_path: Path, dtype: torch.dtype, seed: int | None) -> None:
    tokenizer = text_tokenizer()
    folder = write_slamkit(tmp_path / "one", VARIANTS["llama"], vocab_size=len(tokenizer) + N_UNITS + 2)
    slm = load(folder, text_tokenizer=tokenizer, n_units=N_UNITS, quantiser="tiny", dtype=dtype)
    found = continuations(slm, tiny_case(slm, "first"), LogitLens(slm), LAYER, ("self",), units=10, seed=seed)
    columns = ["step", "unit", "log_prob", "log_prob_unedited"]
    own, plain = (found.table[found.table["run"] == run][columns].reset_index(drop=True) for run in ("self", "corrupted"))
    pd.testing.assert_frame_equal(own, plain, check_exact=MAJOR == 3, rtol=1e-5)  # 4.x rounds a longer row anew
    assert found.about["dtype"] == str(dtype)


def test_the_order_and_number_of_arms_change_no_run(tiny_slm: SpeechTextModel, case: Case, found: Continuations) -> None:
    alone = continuations(tiny_slm, case, LogitLens(tiny_slm), LAYER, "complement", units=12)
    assert alone.runs == ("corrupted", "clean", "complement") and found.runs == ("corrupted", "clean", *ARMS)
    pd.testing.assert_frame_equal(
        alone.table.reset_index(drop=True), found.table[found.table["run"].isin(alone.runs)].reset_index(drop=True), check_exact=True
    )


# -- what may be said ------------------------------------------------------------------------------------


def test_a_model_with_a_whole_vocabulary_only_ever_says_speech(tiny_slm: SpeechTextModel, case: Case, found: Continuations) -> None:
    said = torch.cat([case.base.tokens, tiny_slm.vocabulary.unit_to_id(torch.tensor(found.units("corrupted")))])
    logits = tiny_slm.model(said[None], prepend_bos=False)[0, len(case.base) - 1 : -1]
    wanted = tiny_slm.vocabulary.mask("speech")[logits.argmax(-1)]
    assert not wanted.all()  # it would have said something else
    assert found.table["unit"].between(0, N_UNITS - 1).all() and len(found.table) == 12 * len(found.runs)


def declared(slm: SpeechTextModel, merged: bool | None) -> SpeechTextModel:
    ranges = tuple(replace(one, merged=merged) if one.kind == "speech" else one for one in slm.vocabulary.ranges)
    return replace(slm, vocabulary=JointVocabulary(ranges, slm.vocabulary.size, slm.vocabulary.quantiser))


def test_a_unit_follows_itself_only_where_repeats_are_not_merged(tiny_slm: SpeechTextModel, case: Case) -> None:
    free = declared(tiny_slm, False)
    ask = {"layer": LAYER, "arms": ("whole",), "units": 40, "seed": 1}
    said = continuations(free, case, LogitLens(free), **ask)  # type: ignore[arg-type]
    assert any((said.units(run)[1:] == said.units(run)[:-1]).any() for run in said.runs) and not said.about["merged"]
    for merged in (True, None):  # None: neither prompt has a unit that follows itself
        slm = declared(tiny_slm, merged)
        said = continuations(slm, case, LogitLens(slm), **ask)  # type: ignore[arg-type]
        assert said.about["merged"]
        for run in said.runs:
            prompt = getattr(case.contrast, "clean" if run == "clean" else "corrupted")
            last = int(tiny_slm.vocabulary.id_to_unit(prompt.tokens[-1:]))
            row = [last, *said.units(run).tolist()]
            assert all(one != other for one, other in pairwise(row))


def test_whether_repeats_are_merged_is_as_declared_and_else_as_it_is_in_the_rows(tiny_slm: SpeechTextModel) -> None:
    unit = tiny_slm.vocabulary.unit_to_id(torch.tensor([4, 7]))
    apart, twice = torch.stack([unit[0], unit[1], unit[0]]), torch.stack([unit[0], unit[1], unit[1]])
    text = torch.tensor([3, 3, int(unit[0])])
    assert repeats_are_merged(tiny_slm.vocabulary, [apart, text]) and not repeats_are_merged(tiny_slm.vocabulary, [apart, twice])
    assert repeats_are_merged(declared(tiny_slm, True).vocabulary, [twice])
    assert not repeats_are_merged(declared(tiny_slm, False).vocabulary, [apart])


def test_units_that_are_avoided_are_not_said_and_nothing_else_changes_before_them(
    tiny_slm: SpeechTextModel, case: Case, found: Continuations
) -> None:
    avoid = sorted({int(one) for one in found.units("corrupted")[4:6]})
    other = continuations(tiny_slm, case, LogitLens(tiny_slm), LAYER, ("whole",), units=12, avoid=avoid)
    assert not set(other.table["unit"]) & set(avoid) and other.about["avoid"] == avoid
    first = min(np.flatnonzero(np.isin(found.units("corrupted"), avoid)))
    np.testing.assert_array_equal(other.units("corrupted")[:first], found.units("corrupted")[:first])
    log_probs = [one.table[one.table["run"] == "corrupted"]["log_prob"].to_numpy() for one in (found, other)]
    np.testing.assert_array_equal(log_probs[0][:first], log_probs[1][:first])  # over all speech ids, whatever is avoided


def test_a_seed_draws_the_same_again_and_another_seed_draws_others(tiny_slm: SpeechTextModel, case: Case, found: Continuations) -> None:
    drawn = [continuations(tiny_slm, case, LogitLens(tiny_slm), LAYER, ("whole",), units=12, seed=seed) for seed in (5, 5, 6)]
    pd.testing.assert_frame_equal(drawn[0].table, drawn[1].table)
    assert len({tuple(one.units("corrupted")) for one in (*drawn, found)}) == 3


def test_units_are_drawn_as_often_as_the_model_expects_them() -> None:
    log_probs = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    sayable = Sayable(torch.arange(4), torch.ones(4, dtype=torch.bool), False)
    generator, draws = torch.Generator().manual_seed(0), 4_000
    from slm_interp.causal.speaking import _gumbel

    noise = _gumbel((draws, 4), generator)
    counts = torch.bincount(torch.tensor([sayable.next(log_probs, 9, one) for one in noise]), minlength=4) / draws
    assert (counts - log_probs.exp()).abs().max() < 4 * (0.25 / draws) ** 0.5


# -- hearing it ------------------------------------------------------------------------------------------


def test_the_sound_is_that_of_the_units_and_the_prompt_lasts_as_long_as_it_was_heard(
    tiny_slm: SpeechTextModel, three: Continuations, case: Case
) -> None:
    voice = vocoder()
    lasting = {"clean": [1, 1, 1, 1, 1, 1, 1, 4], "corrupted": [1, 3, 1, 1, 1, 1, 1, 1]}
    prompts = three.prompts.assign(seconds=[0.04 * one for name in three.prompts["prompt"].unique() for one in lasting[name]])
    said = replace(three, prompts=prompts).listen(voice)
    for run in three.runs:
        timed, side = voice.timed(three.units(run)), "clean" if run == "clean" else "corrupted"
        heard = tiny_slm.vocabulary.id_to_unit(getattr(case.contrast, side).tokens[1:]).numpy()  # after the marker
        row = Units(np.concatenate([heard, timed.units]), np.concatenate([lasting[side], timed.durations]), 0.04, "tiny")
        np.testing.assert_array_equal(said.audio(run).samples, voice.audio(timed).samples)
        np.testing.assert_array_equal(said.audio_with_prompt(run).samples, voice.audio(row).samples)
    assert three.prompts["seconds"].to_numpy() == pytest.approx(np.full(16, 0.04))


def test_a_vocoder_of_other_units_or_without_some_of_them_is_refused(found: Continuations) -> None:
    with pytest.raises(VocabularyError, match="quantiser tiny; these come from other"):
        found.audio("whole", vocoder("other"))
    some = int(found.units("whole")[3])
    with pytest.raises(SpeechError, match="which this vocoder never heard. Ask for continuations with avoid=vocoder.unheard"):
        found.listen(vocoder(unheard=(some,)))
    with pytest.raises(PatchingError, match="heard through a vocoder"):
        found.audio("whole")


def test_a_notebook_shows_a_player_for_every_run_and_the_words_that_are_heard(three: Continuations) -> None:
    assert "<audio" not in three._repr_html_()
    rows = [three.units(run)[:4] for run in ("corrupted", "clean")]
    ear = train_recogniser(["<first>", "second"], rows, N_UNITS)
    page = three.listen(vocoder(), ear)._repr_html_()
    assert page.count("<audio") == len(three.runs) and "&lt;first&gt;" in page and "<first>" not in page
    assert three.listen(vocoder(), ear).words("corrupted")[0] == "<first>"


def test_saved_and_loaded_alike_with_a_sound_for_every_run(three: Continuations, tmp_path: Path) -> None:
    three.listen(vocoder()).save(tmp_path)
    back = Continuations.load(tmp_path)
    pd.testing.assert_frame_equal(back.table, three.table)
    pd.testing.assert_frame_equal(back.prompts, three.prompts)
    assert back.about == three.about and repr(back) == repr(three)
    names = {f"{run}{end}.wav" for run in three.runs for end in ("", "_with_prompt")}
    assert {path.name for path in tmp_path.iterdir()} == names | {
        "continuations.parquet",
        "continuation_prompts.parquet",
        "continuations.json",
    }
    assert (tmp_path / "whole.wav").read_bytes() == three.audio("whole", vocoder()).wav_bytes()


def test_a_folder_that_holds_no_continuations_is_refused(found: Continuations, tmp_path: Path) -> None:
    with pytest.raises(PatchingError, match="is no saved result"):
        Continuations.load(tmp_path)
    found.save(tmp_path)
    (tmp_path / "continuations.json").unlink()
    with pytest.raises(PatchingError, match="were not saved whole"):
        Continuations.load(tmp_path)


def test_a_run_that_is_not_there_is_refused_by_name(found: Continuations) -> None:
    with pytest.raises(PatchingError, match="No run 'third'; there are corrupted, clean, whole"):
        found.first_difference("third")


# -- what is refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arms", "sentence"),
    [
        (("direct",), "'first': nothing can be said after arm 'direct': its later blocks are frozen"),
        (("band",), "arm 'band': it writes at several layers"),
        (("written_text",), "arm 'written_text': it is asked of the prompts that are text"),
        (("variance",), "arm 'variance': its subspace is measured on the prompts of all cases"),
        (("random",), "arm 'random': it is a check over many directions"),
        (("loud",), "arm 'loud': there is no such arm, but whole, text"),
        (("text", "text"), r"heard once; got \['text', 'text'\]"),
        (("elsewhere",), "arm 'elsewhere': the case has no elsewhere"),
    ],
)
def test_arms_that_no_speech_can_follow_are_refused_by_name(
    tiny_slm: SpeechTextModel, case: Case, arms: tuple[str, ...], sentence: str
) -> None:
    with pytest.raises(PatchingError, match=sentence):
        continuations(tiny_slm, replace(case, elsewhere=None), LogitLens(tiny_slm), LAYER, arms)


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"units": 0}, PatchingError, "One unit or more is said; got units=0"),
        ({"units": 5_000}, PatchingError, "at most 4096 positions; case 'first' has 9, which leaves 4088 units; got 5000"),
        ({"layer": 0}, PatchingError, "after 1 to 3 blocks"),
        ({"layer": 4}, PatchingError, "after 1 to 3 blocks"),
        ({"avoid": range(N_UNITS)}, PatchingError, f"Of {N_UNITS} units {N_UNITS} are avoided"),
        ({"avoid": range(1, N_UNITS)}, PatchingError, "nothing is left to say"),
        ({"avoid": [N_UNITS]}, VocabularyError, "Codebook 0 has units"),
    ],
)
def test_other_questions_are_refused(
    tiny_slm: SpeechTextModel, case: Case, options: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    asked: Callable[..., Continuations] = continuations
    with pytest.raises(error, match=sentence):
        asked(tiny_slm, case, LogitLens(tiny_slm), **{"layer": LAYER, "arms": ("whole",), **options})


def test_speech_of_several_codebooks_is_refused(tiny_slm: SpeechTextModel, case: Case) -> None:
    book = next(one for one in tiny_slm.vocabulary.ranges if one.kind == "speech")
    halves = [replace(book, stop=book.start + 10), IdRange("speech", book.start + 10, book.stop, codebook=1, template="<Other{}>")]
    ranges = tuple(one for one in tiny_slm.vocabulary.ranges if one.kind != "speech") + tuple(halves)
    slm = replace(tiny_slm, vocabulary=JointVocabulary(ranges, tiny_slm.vocabulary.size, "tiny"))
    with pytest.raises(VocabularyError, match=r"one stream of units; this vocabulary has codebooks \[0, 1\]"):
        continuations(slm, case, LogitLens(tiny_slm), LAYER)


def test_a_model_that_alternates_with_text_speaks_no_longer_than_its_turn(tiny_slm: SpeechTextModel, case: Case) -> None:
    slm = replace(tiny_slm, prompts=replace(tiny_slm.prompts, alternation=(13, 26)))
    with pytest.raises(PatchingError, match="at most 26, after which this family's turn of text comes; got units=27"):
        continuations(slm, case, LogitLens(slm), LAYER, units=27)
    assert len(continuations(slm, case, LogitLens(slm), LAYER, ("whole",), units=3).units("whole")) == 3
