from __future__ import annotations

import json
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_interp.errors import SpeechError
from slm_interp.speech.slamkit_files import SpeechSegment, TextSegment, UnitString, parse_unit_string, read_features, read_tokens
from tests.speech import real

written = st.lists(st.text("abcdefg'", min_size=1, max_size=6), min_size=1, max_size=4).map(
    lambda words: "".join(" " + one for one in words)
)
spoken = st.lists(st.integers(0, 1999), max_size=6)


def lines(tmp_path, *records):
    path = tmp_path / "some.jsonl"
    path.write_text("\n".join(one if isinstance(one, str) else json.dumps(one) for one in records) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("clip", real.CLIPS)
def test_durations_of_the_real_clips_sum_to_their_sound_within_one_frame(clip):
    units = real.units(clip)
    assert 0 <= real.sound(clip).seconds - units.seconds < 0.04
    assert units.edges()[0] == 0
    assert units.edges()[-1] == pytest.approx(units.seconds)
    assert units.frames == len(real.sound(clip).samples) // 640


def test_the_real_clips_have_the_lengths_and_ends_slamkit_tests():
    assert (len(real.units("audio2")), len(real.units("audio1"))) == (328, 288)
    assert real.units("audio2").units[:5].tolist() == [3, 49, 7, 254, 30]
    assert real.units("audio1").units[:5].tolist() == [381, 267, 381, 7, 469]
    assert [real.units(clip).units[-2:].tolist() for clip in real.CLIPS] == [[13, 3], [13, 3]]


def test_strings_and_features_of_the_real_clips_are_the_same_units():
    strings = read_tokens(real.FOLDER / "tokens.jsonl")
    features = read_features(real.FOLDER / "features.jsonl", quantiser="abc")
    assert strings.keys() == features.keys()
    for name, string in strings.items():
        assert string.units == tuple(features[name].units.tolist())
        assert not string.opening_marker
        assert features[name].quantiser == "abc"
        assert np.array_equal(features[name].merged().units, features[name].units)


def test_an_interleaved_string_comes_apart_at_its_markers():
    string = parse_unit_string("<speech><Un3><Un49><text> word word<speech><Un7>")
    assert string.segments == (SpeechSegment((3, 49)), TextSegment(" word word"), SpeechSegment((7,)))
    assert string.opening_marker
    assert string.units == (3, 49, 7)


def test_text_alone_and_a_prompt_that_ends_with_a_marker_are_read():
    assert parse_unit_string("plain text").segments == (TextSegment("plain text"),)
    assert parse_unit_string("<Un3><speech>").segments == (SpeechSegment((3,)), SpeechSegment(()))


@given(st.lists(spoken | written, min_size=1, max_size=6), st.booleans())
def test_strings_come_apart_and_together_to_the_letter(contents, opening_marker):
    segments = tuple(TextSegment(one) if isinstance(one, str) else SpeechSegment(tuple(one)) for one in contents)
    string = UnitString(segments, opening_marker or not contents[0])
    assert parse_unit_string(str(string)) == string


@given(
    st.text(st.sampled_from("<>Unspech/tx 0123456789"))
    | st.lists(st.sampled_from(["<speech>", "<text>", "<Un1>", "<Un01>", "<Un", " a", ">"])).map("".join)
)
def test_any_string_is_taken_apart_to_the_letter_or_refused(string):
    with suppress(SpeechError):
        assert str(parse_unit_string(string)) == string


@pytest.mark.parametrize(
    ("string", "said"),
    [
        ("", "got an empty one"),
        ("<speech><Un3> word", "' word' stands among speech units at character 13"),
        ("<Un3> word<Un4>", "stands among speech units"),
        ("<text> word<Un3>", "Unit <Un3> stands among written words at character 11"),
        ("<Un007>x<Un8>", "Unit <Un8> stands among written words"),
    ],
)
def test_units_and_words_without_a_marker_between_them_are_refused(string, said):
    with pytest.raises(SpeechError, match=said):
        parse_unit_string(string)


GOOD = {"units": [3, 4], "duration": [1, 2], "file_name": "a"}


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ('{"units": [3', "line 2 is not JSON.*cut short"),
        ("[" * 100_000, "line 2 is not JSON"),
        ("[]", "line 2 must be a JSON object"),
        ({**GOOD, "file_name": 3}, "line 2: 'file_name' must be a string; got 3"),
        ({**GOOD, "file_name": "a"}, "line 2: a second record for 'a'"),
        ({**GOOD, "file_name": "b", "duration": [1]}, "line 2: 2 units need as many durations; got 1"),
        ({**GOOD, "file_name": "b", "duration": [1, 0]}, r"line 2: 'duration'\[1\] must be a whole number of at least 1; got 0"),
        ({**GOOD, "file_name": "b", "units": [3, -1]}, r"line 2: 'units'\[1\] must be a whole number of at least 0; got -1"),
        ({**GOOD, "file_name": "b", "units": [3, 1.5]}, r"'units'\[1\] must be a whole number"),
        ({**GOOD, "file_name": "b", "units": [True, 1]}, r"'units'\[0\] must be a whole number"),
        ({**GOOD, "file_name": "b", "units": [10**30, 1]}, r"'units'\[0\] must be a whole number"),
        ({**GOOD, "file_name": "b", "units": []}, "line 2: 'units' must be a list with at least one number"),
        ({"file_name": "b"}, "line 2: 'units' must be a list"),
    ],
)
def test_a_damaged_line_of_features_is_named(tmp_path, record, said):
    with pytest.raises(SpeechError, match=said):
        read_features(lines(tmp_path, GOOD, record))


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"file_name": "b"}, "line 2: 'audio_repr' must be a string"),
        ({"file_name": "b", "audio_repr": "<Un3> a"}, "line 2: .*stands among"),
    ],
)
def test_a_damaged_line_of_tokens_is_named(tmp_path, record, said):
    with pytest.raises(SpeechError, match=said):
        read_tokens(lines(tmp_path, {"file_name": "a", "audio_repr": "<Un3>"}, record))


def test_bytes_that_are_no_text_and_missing_files_are_refused(tmp_path):
    (tmp_path / "some.jsonl").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "some.jsonl", tmp_path / "nowhere.jsonl"):
        with pytest.raises(SpeechError, match="cannot be read as UTF-8 text"):
            read_features(path)
