"""Ranks of words and nulls, against the lens's own readings and against a model that is known."""

from __future__ import annotations

import re

import numpy as np
import pytest
import xarray as xr

from slm_interp import LogitLens
from slm_interp.errors import ReadoutError, VocabularyError
from slm_interp.transcription import Observations, observe, offset, span_and_after
from slm_interp.transcription.asking.targets import variants
from slm_interp.transcription.asking.windows import named
from tests.transcription import planted
from tests.transcription.planted import SILENCE, AtLayers


@pytest.mark.parametrize("window", ["span", "last", span_and_after(2), offset(-1)])
@pytest.mark.parametrize("target", ["current", "next"])
def test_words_and_nulls_have_the_best_rank_that_a_reading_shows_in_the_window(tiny_slm, corpus, window, target):
    found = observe(tiny_slm, corpus, target=target, window=window, draws=3).dataset
    rule = named(window)
    for number, spoken in enumerate(corpus):
        reading = LogitLens(tiny_slm).read(spoken, targets=[word.text for one in corpus for word in one.words]).dataset
        by_word = reading.assign_coords(target=reading["target_word"].values).drop_duplicates("target")
        for row in np.flatnonzero(found["utterance"].values == number):
            word = found.isel(word=row)
            positions = list(rule.positions(spoken.words[int(word["word_index"])].span, len(spoken)))
            here = by_word.isel(pos=positions)
            for name, variable, best in (
                ("rank", "target_rank", "min"),
                ("rank_in_text", "target_rank_in_modality", "min"),
                ("log_prob", "target_log_prob", "max"),
            ):
                pooled = getattr(here[variable], best)("pos")
                np.testing.assert_allclose(word[name], pooled.sel(target=str(word["word_type"].values)), rtol=1e-5)
                nulls = pooled.sel(target=xr.DataArray(word["null_word"].values, dims=("null", "draw")))
                np.testing.assert_allclose(word[f"null_{name}"], nulls.transpose("null", "draw", "layer"), rtol=1e-5)


def test_what_is_asked_is_the_word_itself_or_the_one_after_it(tiny_slm, corpus):
    for target, ahead in (("current", 0), ("next", 1)):
        data = observe(tiny_slm, corpus, target=target).dataset
        for number, index, heard, asked in zip(
            *(data[name].values for name in ("utterance", "word_index", "heard", "word_type")), strict=True
        ):
            words = [word.text for word in corpus[number].words]
            assert (words[index], words[index + ahead]) == (heard, asked)


def test_the_last_word_has_a_next_one_only_if_there_are_answers(tiny_slm, corpus):
    without = observe(tiny_slm, corpus, target="next")
    assert without.left_out == {"no next word": 6}
    answers = ["rome"] * 6
    with_them = observe(tiny_slm, corpus, target="next", answers=answers)
    assert with_them.left_out == {}
    assert with_them.dataset.sizes["word"] == without.dataset.sizes["word"] + 6
    alone = observe(tiny_slm, corpus, target="answer", answers={f"clip {number}": "rome" for number in range(6)}, nulls=["shuffled"])
    last = with_them.dataset["asked_index"].values == 6
    np.testing.assert_array_equal(alone.dataset["rank"], with_them.dataset["rank"][last])


def test_nulls_are_never_the_word_itself_nor_one_beside_it(tiny_slm, corpus):
    data = observe(tiny_slm, corpus, target="next", draws=20).dataset
    for row in range(data.sizes["word"]):
        word = data.isel(word=row)
        words = [one.text for one in corpus[int(word["utterance"])].words]
        index = int(word["word_index"])
        near = {str(word["word_type"].values), *words[max(0, index - 1) : index + 2]}
        assert near.isdisjoint(word["null_word"].values.ravel().tolist())
        assert set(word["null_word"].sel(null="shuffled").values.tolist()) <= set(words)


def test_a_null_from_elsewhere_is_asked_about_in_another_utterance(planted_slm):
    common = planted.utterance(planted_slm, ["a", "the", "of", "is"], [[SILENCE]] * 4)
    rare = planted.utterance(planted_slm, ["see", "sea", "paris", "rome"], [[SILENCE]] * 4)
    data = observe(planted_slm, [common, rare], nulls=["elsewhere"]).dataset
    for row in range(8):
        drawn = set(data["null_word"].isel(word=row).values.ravel().tolist())
        assert drawn <= ({"see", "sea", "paris", "rome"} if row < 4 else {"a", "the", "of", "is"})


def test_a_null_of_like_frequency_is_about_as_frequent(planted_slm):
    words = [f"{word}" for word in ("a", "the", "of", "is")]
    utterances = [planted.utterance(planted_slm, words, [[SILENCE]] * 4) for _ in range(5)]
    utterances += [planted.utterance(planted_slm, ["see", "capital", "paris", "rome"], [[SILENCE]] * 4)]
    from slm_interp.transcription.asking import nulls

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nulls, "FREQUENCY_NEIGHBOURS", 1)
        data = observe(planted_slm, utterances, nulls=["frequency"]).dataset
    assert set(data["null_word"].isel(word=slice(0, 20)).values.ravel().tolist()) <= set(words)
    assert set(data["null_word"].isel(word=slice(20, 24)).values.ravel().tolist()) <= {"see", "capital", "paris", "rome"}


def test_another_null_changes_neither_words_nor_draws_of_the_first(tiny_slm, corpus):
    alone, both = (observe(tiny_slm, corpus, nulls=nulls).dataset for nulls in (["elsewhere"], ["shuffled", "elsewhere"]))
    assert (alone["null_word"].sel(null="elsewhere") == both["null_word"].sel(null="elsewhere")).all()


def test_a_word_without_any_other_word_for_a_null_is_left_out_and_counted(tiny_slm, corpus):
    short = planted.utterance(tiny_slm, ["a", "the"], [[1, 2], [3]])
    found = observe(tiny_slm, [*corpus, short])
    assert found.left_out == {"no other word of as many ids for the null 'shuffled'": 2}
    assert 6 not in found.dataset["utterance"]
    with pytest.raises(ReadoutError, match="No word is left to ask about; left out: .*'shuffled'\": 2.*Give longer or more utterances"):
        observe(tiny_slm, [short], nulls=["shuffled"])


def test_a_word_whose_window_is_empty_is_left_out_and_counted(tiny_slm, corpus):
    found = observe(tiny_slm, corpus, window=offset(-2))
    assert found.left_out == {"empty window": 6}
    assert (found.dataset["word_index"] > 0).all()
    with pytest.raises(ReadoutError, match=re.escape("The window offset(99) has no position at any word")):
        observe(tiny_slm, corpus, window=offset(99))


def test_words_that_cannot_be_spelled_are_refused_by_name_or_counted(tiny_slm, corpus):
    odd = planted.utterance(tiny_slm, ["a", "zyzzyva", "paris", "rome", "see"], [[1], [2], [3], [4], [5]])
    with pytest.raises(
        VocabularyError, match=re.escape("cannot spell 1 of 11 words: 'zyzzyva'. Leave them out, or count them out with unspelled='drop'.")
    ):
        observe(tiny_slm, [*corpus, odd])
    assert observe(tiny_slm, [*corpus, odd], unspelled="drop").left_out == {"not spelled": 1}


def test_variants_count_every_case_and_space_that_has_a_piece(tiny_slm):
    assert variants(tiny_slm, "Paris") == tiny_slm.word_ids("paris")
    with pytest.raises(VocabularyError):
        variants(tiny_slm, "zyzzyva")


def test_variants_are_the_best_of_their_ids(planted_slm, monkeypatch):
    """Here `paris` also counts as `rome`, and `sea` as `see`."""
    from slm_interp.transcription.asking import targets

    ids = {word: planted_slm.word_ids(word) for word in planted.WORDS} | {
        "paris": (*planted_slm.word_ids("paris"), *planted_slm.word_ids("rome")),
        "sea": (*planted_slm.word_ids("sea"), *planted_slm.word_ids("see")),
    }
    monkeypatch.setitem(targets.SPELLINGS, "variants", lambda _, word: ids[word])
    shown = planted.utterance(planted_slm, ["the", "paris", "of", "a", "is"], [[SILENCE], [planted.WORDS.index("rome")], *[[SILENCE]] * 3])
    other = planted.utterance(planted_slm, ["rome", "sea", "the"], [[SILENCE]] * 3)
    data = observe(planted_slm, [shown, other], spelling="variants", nulls=["elsewhere"]).dataset
    paris = data.isel(word=data["word_type"].values.tolist().index("paris"))
    assert (paris["rank"] == 0).all()
    assert set(paris["null_word"].values.ravel().tolist()) == {"sea"}


def test_the_planted_layers_show_every_word_and_no_null(planted_slm):
    data = observe(planted_slm, planted.heard(planted_slm), AtLayers(planted_slm, (1, 2)), window="last").dataset
    assert (data["rank"].sel(layer=[1, 2]) == 0).all()
    assert (data["rank_in_text"].sel(layer=[1, 2]) == 0).all()
    blind = (data.attrs["n_live_ids"] - 1) / 2
    assert (data["rank"].sel(layer=[0, 3]) == blind).all()
    assert (data["null_rank"] >= blind).all()


def test_jitter_takes_the_word_away_from_its_last_unit(planted_slm):
    heard = planted.heard(planted_slm)
    still, moved = (observe(planted_slm, heard, window="last", jitter=by).dataset for by in (0, 1))
    share = float((moved["rank"].sel(layer=1) == 0).mean())
    assert (still["rank"] == 0).all()
    assert 0.15 < share < 0.55
    assert moved.equals(observe(planted_slm, heard, window="last", jitter=1).dataset)
    other = observe(planted_slm, heard, window="last", jitter=1, seed=1).dataset
    assert (moved["start"] != other["start"]).any() and (moved["stop"] != other["stop"]).any()


def test_observations_come_back_from_their_file_whole(tiny_slm, corpus, tmp_path):
    found = observe(tiny_slm, corpus)
    found.save(tmp_path / "observed.nc")
    again = Observations.load(tmp_path / "observed.nc")
    xr.testing.assert_identical(again.dataset, found.dataset)
    assert again.left_out == found.left_out
    (tmp_path / "other.nc").write_bytes(b"no such thing")
    with pytest.raises(ReadoutError, match="holds no saved observations"):
        Observations.load(tmp_path / "other.nc")
    with pytest.raises(ReadoutError, match="Observe the corpus again"):
        Observations(xr.Dataset())


def test_observations_say_what_was_asked_and_what_was_left_out(tiny_slm, corpus):
    found = observe(tiny_slm, corpus, target="next", window="last")
    assert repr(found) == (
        "Observations(next word over last, 30 words of 6 utterances, 4 layers, nulls shuffled, elsewhere, frequency x 5; "
        "left out: 6 no next word)"
    )
    assert "null: frequency" in found._repr_html_()
    assert {"corpus", "lens", "provenance_json", "seed", "jitter", "spelling", "window"} <= set(found.dataset.attrs)


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"target": "previous"}, "A target is one of current, next, answer, given; got 'previous'."),
        ({"target": "answer"}, "The answer is not part of the prompt: give answers="),
        ({"answers": ["rome"]}, "6 utterances need 6 answers; got 1."),
        ({"answers": {"clip 0": "rome"}}, "5 utterances have no answer, the first is 'clip 1'."),
        (
            {"nulls": ["random"]},
            "frequency, random_residuals, mixed_residuals, each once, with at least one draw; got ['random'] with draws=5.",
        ),
        ({"nulls": []}, "got [] with draws=5"),
        ({"draws": 0}, "with draws=0"),
        (
            {"spelling": "last_piece"},
            "A spelling is one of first_piece, variants, all_pieces, every_piece, unspelled is refuse or drop; got 'last_piece', 'refuse'.",
        ),
    ],
)
def test_unknown_options_are_refused_in_a_sentence(tiny_slm, corpus, options, sentence):
    with pytest.raises(ReadoutError, match=re.escape(sentence)):
        observe(tiny_slm, corpus, **options)


def test_speech_alone_and_utterances_without_words_cannot_be_asked(speech_only_slm, tiny_slm, corpus):
    with pytest.raises(VocabularyError, match="no text ids"):
        observe(speech_only_slm, corpus)
    with pytest.raises(ReadoutError, match=re.escape("Utterance 0 (clip 0) has no words to ask for. Align it first.")):
        observe(tiny_slm, [corpus[0].with_words([])])
