from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from slm_interp.audio import Audio
from slm_interp.errors import SpeechError
from slm_interp.speech.alignment import Limits, align, align_with_scores
from slm_interp.speech.audio import resample
from slm_interp.speech.synthesis import synthesise
from tests.speech import real

SENTENCES = (
    "the capital of france is paris",
    "a quiet brook ran through the dark woods",
    "the old man has a red boat and a small dog",
    "maria lives in vienna and likes strong coffee",
    "my brother works in the bakery behind the church",
)
VOICES = (("en-us", 175), ("en-us+f3", 140), ("en-gb", 160), ("en-us+m3", 200), ("en-us", 130))


def loudness(audio, start_s, end_s):
    return float(np.sqrt(np.mean(audio.slice(start_s, end_s).samples ** 2)))


# -- recorded speech ----------------------------------------------------------------------------------


@pytest.mark.parametrize("clip", real.CLIPS)
def test_a_real_clip_has_all_its_words_in_order_inside_the_sound(clip, aligned):
    words = aligned(clip)
    assert [word.text for word in words] == real.transcript(clip).split()
    assert all(before.end_s <= after.start_s for before, after in pairwise(words))
    assert words[0].start_s > 0
    assert words[-1].end_s <= real.sound(clip).seconds


@pytest.mark.parametrize("clip", real.CLIPS)
def test_words_of_a_real_clip_last_as_long_as_words_do(clip, aligned):
    words = aligned(clip)
    assert all(0.029 < word.seconds < 0.7 for word in words)
    letters = [len(word.text) for word in words]
    assert np.corrcoef(letters, [word.seconds for word in words])[0, 1] > 0.75


@pytest.mark.parametrize("clip", real.CLIPS)
def test_pauses_of_a_real_clip_are_quiet_and_its_words_are_not(clip, aligned):
    audio, words = real.sound(clip), aligned(clip)
    spoken = np.median([loudness(audio, word.start_s, word.end_s) for word in words])
    pauses = [(before.end_s, after.start_s) for before, after in pairwise(words) if after.start_s - before.end_s > 0.2]
    assert len(pauses) >= 3
    assert all(loudness(audio, start + 0.03, end - 0.03) < 0.3 * spoken for start, end in pauses)
    assert all(loudness(audio, word.start_s, word.end_s) > 0.3 * spoken for word in words)


@pytest.mark.parametrize("clip", real.CLIPS)
def test_long_quiet_stretches_of_a_real_clip_belong_to_no_word(clip, aligned):
    audio, words = real.sound(clip), aligned(clip)
    frames = audio.samples[: len(audio.samples) // 1600 * 1600].reshape(-1, 1600)
    quiet = np.sqrt((frames**2).mean(1)) < 0.3 * np.sqrt((audio.samples**2).mean())
    centres = (
        np.flatnonzero(quiet[:-4] & quiet[1:-3] & quiet[2:-2] & quiet[3:-1] & quiet[4:]) / 10 + 0.25
    )  # half a second of quiet around each
    assert len(centres) >= 2
    assert not any(word.start_s < centre < word.end_s for word in words for centre in centres)


def test_words_outside_the_dictionary_are_found_where_they_are_said(aligned):
    times = {word.text: word for word in aligned("audio1")}
    assert times["where"].end_s <= times["avonlea"].start_s < times["avonlea"].end_s <= times["main"].start_s
    assert 7.2 < times["avonlea"].start_s < 7.4 and 7.7 < times["avonlea"].end_s < 7.9
    assert 10.6 < times["fringed"].start_s < 10.8 and 12.7 < times["eardrops"].end_s < 12.9


def test_a_spoken_word_fits_and_a_word_put_in_its_place_does_not(aligned_with_scores):
    assert min(one.score for one in aligned_with_scores("audio1")) > -60
    words = real.transcript("audio1").split()[:7]
    words[3] = "umbrella"
    anyway = Limits(float("-inf"), float("-inf"), float("-inf"))
    scores = {one.word.text: one.score for one in align_with_scores(real.sound("audio1").slice(0.0, 4.0), " ".join(words), limits=anyway)}
    assert scores["umbrella"] == min(scores.values()) < -95


# -- synthesised speech, whose times are known ----------------------------------------------------------


def test_times_of_synthesised_words_are_found_to_within_a_hundredth_of_a_second_in_the_median():
    starts, ends = [], []
    for text, (voice, rate) in zip(SENTENCES, VOICES, strict=True):
        spoken = synthesise(text, voice, rate)
        found = align(spoken.audio, text)
        assert [word.text for word in found] == [word.text for word in spoken.words]
        starts += [one.start_s - other.start_s for one, other in zip(found, spoken.words, strict=True)]
        ends += [one.end_s - other.end_s for one, other in zip(found, spoken.words, strict=True)]
    assert np.median(np.abs(starts)) < 0.012 and np.median(np.abs(ends)) < 0.012
    assert np.percentile(np.abs(starts), 90) < 0.03 and np.percentile(np.abs(ends), 90) < 0.03
    assert np.abs(starts).max() < 0.12
    assert abs(np.median(starts)) < 0.006 and abs(np.median(ends)) < 0.006  # early as often as late


def test_loudness_rate_and_silence_around_the_speech_change_no_time_by_more_than_two_frames():
    spoken = synthesise(SENTENCES[1])
    plain = [word.start_s for word in align(spoken.audio, SENTENCES[1])]
    faint = Audio(spoken.audio.samples * np.float32(0.001), spoken.audio.sample_rate)
    assert [word.start_s for word in align(faint, SENTENCES[1])] == plain
    later = Audio(np.pad(spoken.audio.samples, (spoken.audio.sample_rate, 0)), spoken.audio.sample_rate)
    assert np.allclose([word.start_s - 1 for word in align(later, SENTENCES[1])], plain, atol=0.0201)
    assert np.allclose([word.start_s for word in align(resample(spoken.audio, 48_000), SENTENCES[1])], plain, atol=0.0201)


def test_the_same_sound_gives_the_same_times():
    spoken = synthesise(SENTENCES[0])
    assert align(spoken.audio, SENTENCES[0]) == align(spoken.audio, SENTENCES[0])


# -- transcripts ------------------------------------------------------------------------------------------


def test_case_and_punctuation_are_no_part_of_a_word_but_inner_apostrophes_are():
    spoken = synthesise("well, it's Rachel's dog, isn't it? Yes: my dog")
    found = align(spoken.audio, "\u201cWell, it\u2019s Rachel's dog\u2014isn't it?\u201d 'Yes' \u2026 MY dog!")
    assert [word.text for word in found] == ["Well", "it's", "Rachel's", "dog", "isn't", "it", "Yes", "MY", "dog"]


@pytest.mark.parametrize(
    ("transcript", "said"),
    [
        ("", "no words in the transcript ''"),
        (" \u2026 -- '", "no words in the transcript"),
        ("chapter 1", "Digits are read in several ways: write '1' out as it is said"),
        ("the 2nd one", "write '2nd' out"),
        ("глава один", "Latin letters"),
        ("rachel/lynde", "holds '/'"),
    ],
)
def test_a_transcript_without_words_with_digits_or_in_other_letters_is_refused(transcript, said):
    with pytest.raises(SpeechError, match=said):
        align(real.sound("audio1"), transcript)


@pytest.mark.parametrize("clip", real.CLIPS)
def test_the_transcript_of_another_clip_is_refused(clip):
    other = next(one for one in real.CLIPS if one != clip)
    with pytest.raises(SpeechError, match=r"The transcript does not fit the sound: .*Check that it is all of what is said"):
        align(real.sound(clip), real.transcript(other))


def test_a_transcript_that_leaves_speech_out_is_refused():
    title, words = real.sound("audio1").slice(0.0, 4.0), real.transcript("audio1").split()[:7]
    assert len(align(title, " ".join(words))) == 7
    for part in (words[:4], words[:2], [*words[:2], words[6]]):
        with pytest.raises(SpeechError, match="does not fit the sound"):
            align(title, " ".join(part))


def test_a_word_that_is_not_said_is_refused_by_name_and_second():
    words = real.transcript("audio1").split()[:7]
    with pytest.raises(SpeechError, match=r"'umbrella' is not what sounds near 1\.\d\d s \(score -1\d\d a frame, below -95\)"):
        align(real.sound("audio1").slice(0.0, 4.0), " ".join([*words[:3], "umbrella", *words[4:]]))


def test_another_sentence_of_the_same_voice_is_refused():
    for text, wrong in pairwise(SENTENCES[:3]):
        with pytest.raises(SpeechError, match="does not fit the sound"):
            align(synthesise(text).audio, wrong)


def test_more_phones_than_the_sound_has_time_for_are_refused():
    with pytest.raises(SpeechError, match=r"34 words of at least 1\d\d phones and the sound lasts 1.00 s; a phone takes 0.03 s or more"):
        align(real.sound("audio1").slice(0.0, 1.0), real.transcript("audio1"))


def test_a_silent_sound_is_refused():
    with pytest.raises(SpeechError, match="The sound is silent"):
        align(Audio(np.zeros(16_000, dtype=np.float32), 16_000), "hello there")


def test_noise_is_not_taken_for_speech():
    noise = np.random.default_rng(0).normal(0, 0.1, 32_000).astype(np.float32)
    with pytest.raises(SpeechError, match="does not fit the sound"):
        align(Audio(noise, 16_000), SENTENCES[0])


# -- pronunciations ---------------------------------------------------------------------------------------


def test_a_pronunciation_from_the_caller_is_used_instead_of_the_dictionarys():
    spoken = synthesise("the lint is on the table")
    scores = [
        align_with_scores(spoken.audio, "the zyx is on the table", {"Zyx": said}, Limits(*[float("-inf")] * 3))[1].score
        for said in ("L IH N T", "SH OY Z UH G")
    ]
    assert scores[0] > scores[1] + 20
    replaced = align_with_scores(spoken.audio, "the table is on the table", {"table": "L IH N T"}, Limits(*[float("-inf")] * 3))
    assert replaced[1].score > replaced[5].score


@pytest.mark.parametrize("said", ["", "L IX N", "l ih n t"])
def test_phones_the_model_does_not_know_are_refused(said):
    with pytest.raises(SpeechError, match=r"The pronunciation of 'lint' must be made of AA AE AH .* ZH; got"):
        align(real.sound("audio1"), "lint", {"lint": said})
