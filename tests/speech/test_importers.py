from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slm_interp.errors import SpeechError
from slm_interp.speech.importers import read_ctm, read_slamkit_alignment, read_textgrid, read_whisper_json, read_words
from slm_interp.speech.words import TimedWord

HE_WAS = (TimedWord("he", 0.12, 0.30), TimedWord("was", 0.30, 0.52))
READERS = {
    "some.TextGrid": lambda path: read_textgrid(path, "words"),
    "some.ctm": read_ctm,
    "slamkit.json": read_slamkit_alignment,
    "whisper.json": read_whisper_json,
}

LONG = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 1.0
tiers? <exists>
size = 2
item []:
    item [1]:
        class = "TextTier"
        name = "beeps"
        xmin = 0
        xmax = 1.0
        points: size = 1
        points [1]:
            number = 0.5
            mark = "beep"
    item [2]:
        class = "IntervalTier"
        name = "words"
        xmin = 0
        xmax = 1.0
        intervals: size = 4
        intervals [1]:
            xmin = 0
            xmax = 0.12
            text = ""
        intervals [2]:
            xmin = 0.12
            xmax = 0.30
            text = "he"
        intervals [3]:
            xmin = 0.30
            xmax = 0.52
            text = "was"
        intervals [4]:
            xmin = 0.52
            xmax = 1.0
            text = "sp"
"""
SHORT = (
    '"ooTextFile"\n"TextGrid"\n\n0\n1\n<exists>\n1\n"IntervalTier"\n"words"\n0\n1\n3\n'
    '0\n0.12\n""\n0.12\n0.3\n"he"\n0.3\n0.52\n"was" ! a comment\n'
)
CTM = ";; made by hand\nclip 1 0.00 0.12 <eps>\nclip 1 0.12 0.18 he 0.99\nclip 1 0.30 0.22 was\n"
SLAMKIT = {"file_name": "clip.flac", "text": " he was", "aligned_text": [[" he", 0.12, 0.30], [" was", 0.30, 0.52]]}
WHISPER = {
    "segments": [
        {"words": [{"word": " he", "start": 0.12, "end": 0.3, "probability": 0.9}]},
        {"words": [{"word": " was", "start": 0.3, "end": 0.52}]},
    ]
}
CHUNKS = {"text": " he was", "chunks": [{"text": " he", "timestamp": [0.12, 0.3]}, {"text": " was", "timestamp": [0.3, 0.52]}]}


def written(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else (content if isinstance(content, str) else json.dumps(content)).encode())
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("some.TextGrid", LONG),
        ("some.TextGrid", SHORT),
        ("some.TextGrid", LONG.replace("\n", "\r\n")),
        ("some.TextGrid", LONG.encode("utf-16")),
        ("some.TextGrid", "\ufeff" + LONG),
        ("some.ctm", CTM),
        ("some.json", SLAMKIT),
        ("some.json", WHISPER),
        ("some.json", CHUNKS),
    ],
)
def test_every_format_gives_the_same_two_words(tmp_path, name, content):
    assert read_words(written(tmp_path, name, content)) == HE_WAS


def test_an_unknown_kind_of_file_is_refused(tmp_path):
    with pytest.raises(SpeechError, match=r"read from \.TextGrid, \.ctm and \.json files; got .*some\.srt"):
        read_words(tmp_path / "some.srt")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("some.TextGrid", LONG.replace('"words"', '"phones"'), r"has 0 tiers named 'words'; its tiers: \['beeps', 'phones'\]"),
        ("some.TextGrid", LONG.replace('"beeps"', '"words"'), "has 2 tiers named 'words'"),
        ("some.TextGrid", LONG.replace('"words"', '"x"').replace('"beeps"', '"words"'), "holds points, not intervals"),
        ("some.TextGrid", LONG.replace("xmin = 0.12", "xmin = soon"), "line 31: the end of an interval should come here; got 'he'"),
        ("some.TextGrid", LONG.replace("xmin = 0.30", "xmin = 0.60"), "line 35: Word 'was' must start .*got 0.6 to 0.52"),
        ("some.TextGrid", LONG.replace("xmin = 0.12", "xmin = -0.12"), "line 31: Word 'he' must start at or after 0 s"),
        ("some.TextGrid", LONG[: LONG.index("intervals [4]")], "ends where the start of an interval should come. Is it cut short"),
        ("some.TextGrid", LONG.replace('text = "sp"', 'text = "sp'), "without its closing quotation mark"),
        (
            "some.TextGrid",
            LONG.replace("intervals: size = 4", "intervals: size = 400000000"),
            "line 23: the number of intervals of tier 'words' cannot be",
        ),
        ("some.TextGrid", "ooBinaryFile\x08TextGrid", "is a binary TextGrid. Save it as a text file"),
        ("some.TextGrid", LONG.replace('"TextGrid"', '"Pitch 1"'), "is not a TextGrid"),
        ("some.TextGrid", LONG.replace('"he"', '""').replace('"was"', '""'), "holds no words"),
        ("some.ctm", CTM + "clip 1 0.6\n", "line 5 must read 'recording channel start duration word"),
        ("some.ctm", CTM + "clip 1 x 0.1 y\n", "line 5: start must be a number of seconds; got 'x'"),
        ("some.ctm", CTM + "clip 1 0.6 -1 y\n", "line 5: Word 'y' must start"),
        ("some.ctm", CTM + "other 1 0.6 0.1 y\n", r"holds the recordings \['clip', 'other'\]; choose one by name, got None"),
        ("some.ctm", CTM + "clip 2 0.6 0.1 y\n", "line 5: recording 'clip' has words on channels '1' and '2'"),
        ("some.ctm", CTM + "clip 1 0.6 0.1 <ALT_BEGIN>\n", "line 5: alternatives"),
        ("some.ctm", CTM + "clip 1 0.1 0.1 y\n", "'y' starts at 0.1 s, before 'was' at 0.3 s. Sort the words"),
        ("some.ctm", "", r"holds the recordings \[\]"),
        ("slamkit.json", {"text": "x"}, "'aligned_text' must be a list; got None"),
        ("slamkit.json", [], "'aligned_text' must be a list"),
        ("slamkit.json", {"aligned_text": [[" he", 0.1]]}, r"aligned_text\[0\] must be \[word, start, end\]"),
        ("slamkit.json", {"aligned_text": [[" he", 0.1, None]]}, r"aligned_text\[0\]: end must be a number of seconds; got None"),
        ("slamkit.json", {"aligned_text": [[" he", True, 0.2]]}, r"aligned_text\[0\]: start must be a number of seconds; got True"),
        (
            "slamkit.json",
            {"aligned_text": [[" well", 0.1, 0.2], ["-known", 0.2, 0.3]]},
            r"aligned_text\[1\]: '-known' has no leading space",
        ),
        ("slamkit.json", {**SLAMKIT, "text": " she was"}, "'text' is ' she was' and its aligned words spell ' he was'"),
        ("slamkit.json", '{"aligned_text": [[" he", NaN, 0.2]]}', r"aligned_text\[0\]: Word 'he' must start"),
        ("slamkit.json", '{"aligned_text": [[" he", 1e999, 1e999]]}', r"aligned_text\[0\]: Word 'he' must start"),
        ("slamkit.json", {"aligned_text": []}, "holds no words"),
        ("slamkit.json", '{"aligned_text": [[" he", 0.1', "is not JSON.*cut short"),
        ("slamkit.json", "[" * 100_000, "is not JSON"),
        ("whisper.json", {"text": "x"}, "must be a JSON object with 'segments' or 'chunks'"),
        ("whisper.json", {"segments": [{"text": " he"}]}, r"segments\[0\] has no 'words'. Transcribe with word timestamps"),
        (
            "whisper.json",
            {"segments": [{"words": [{"word": "2014"}]}]},
            r"segments\[0\].words\[0\]: start must be a number of seconds; got None",
        ),
        ("whisper.json", {"segments": [{"words": [{"start": 1, "end": 2}]}]}, r"segments\[0\].words\[0\] must be an object with a 'word'"),
        (
            "whisper.json",
            {"chunks": [{"text": " he", "timestamp": [0.1, None]}]},
            r"chunks\[0\]: end must be a number of seconds; got None",
        ),
        ("whisper.json", {"chunks": [{"text": " he"}]}, r"chunks\[0\] must have 'timestamp': \[start, end\].*return_timestamps='word'"),
        ("whisper.json", {"segments": [{"words": [{"word": " ", "start": 0.1, "end": 0.2}]}]}, r"words\[0\]: A timed word has letters"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_place(tmp_path, name, content, said):
    with pytest.raises(SpeechError, match=said):
        READERS[name](written(tmp_path, name, content))


def test_one_recording_of_a_ctm_is_chosen_by_name(tmp_path):
    path = written(tmp_path, "some.ctm", CTM + "other 1 0.6 0.1 y\n")
    assert read_ctm(path, "clip") == HE_WAS
    assert [word.text for word in read_ctm(path, "other")] == ["y"]


def test_missing_files_and_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "some.ctm").write_bytes(b"\xff\xfe\xff")
    for path in (tmp_path / "some.ctm", tmp_path / "nowhere.ctm", tmp_path):
        with pytest.raises(SpeechError, match="cannot be read as text"):
            read_ctm(path)


# -- what is written is what is read ------------------------------------------------------------------


def long_textgrid(intervals, end):
    head = (
        f'File type = "ooTextFile"\nObject class = "TextGrid"\n\nxmin = 0 \nxmax = {end} \ntiers? <exists> \nsize = 1 \n'
        'item []: \n    item [1]:\n        class = "IntervalTier" \n        name = "words" \n        xmin = 0 \n'
        f"        xmax = {end} \n        intervals: size = {len(intervals)} \n"
    )
    rows = [
        f'        intervals [{i}]:\n            xmin = {start} \n            xmax = {stop} \n            text = "{quoted(text)}" \n'
        for i, (text, start, stop) in enumerate(intervals, start=1)
    ]
    return head + "".join(rows)


def short_textgrid(intervals, end):
    rows = "".join(f'{start}\n{stop}\n"{quoted(text)}"\n' for text, start, stop in intervals)
    head = f'File type = "ooTextFile"\nObject class = "TextGrid"\n\n0\n{end}\n<exists>\n1\n'
    return f'{head}"IntervalTier"\n"words"\n0\n{end}\n{len(intervals)}\n{rows}'


def quoted(text):
    return text.replace('"', '""')


def ctm(intervals, end):
    return "".join(f"clip A {start} {round(stop - start, 9)} {text or '<eps>'}\n" for text, start, stop in intervals)


def slamkit(intervals, end):
    spoken = [[" " + text, start, stop] for text, start, stop in intervals if text]
    return json.dumps({"file_name": "clip", "text": "".join(word for word, _, _ in spoken), "aligned_text": spoken})


def whisper(intervals, end):
    return json.dumps(
        {
            "segments": [
                {"id": i, "words": [{"word": " " + text, "start": start, "end": stop}]}
                for i, (text, start, stop) in enumerate(intervals)
                if text
            ]
        }
    )


def chunks(intervals, end):
    return json.dumps({"chunks": [{"text": " " + text, "timestamp": [start, stop]} for text, start, stop in intervals if text]})


WRITERS = {
    "long": (long_textgrid, "some.TextGrid"),
    "short": (short_textgrid, "some.TextGrid"),
    "ctm": (ctm, "some.ctm"),
    "slamkit": (slamkit, "slamkit.json"),
    "whisper": (whisper, "whisper.json"),
    "chunks": (chunks, "whisper.json"),
}
fields = st.sampled_from(["segments", "words", "chunks", "word", "start", "end", "text", "timestamp", "aligned_text"])
json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=3), lambda inner: st.lists(inner) | st.dictionaries(fields, inner)
)
texts = st.text(st.characters(categories=("L", "N", "P"), exclude_characters="\u2028"), min_size=1, max_size=8).filter(
    lambda text: text not in {"sil", "SIL", "sp"}
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.parametrize("kind", WRITERS)
def test_words_come_back_as_they_were_written(tmp_path, kind, data):
    write, name = WRITERS[kind]
    bounds = sorted(data.draw(st.sets(st.integers(0, 10**6), min_size=3, max_size=10)))
    labels = data.draw(st.lists(texts | st.just(""), min_size=len(bounds) - 1, max_size=len(bounds) - 1))
    if kind == "ctm":
        labels = [label if not label.startswith(("<ALT", ";;")) else "word" for label in labels]
    labels[0] = labels[0] or "word"
    intervals = [(label, start / 1000, stop / 1000) for label, start, stop in zip(labels, bounds, bounds[1:], strict=False)]
    path = written(tmp_path, name, write(intervals, bounds[-1] / 1000))
    assert READERS[name](path) == tuple(TimedWord(*interval) for interval in intervals if interval[0])


JUNK = [b'"', b"\n", b"<exists>", b"-1", b"1e999", b"null", b"[", b"{}", b" 9" * 3, b"9" * 5000, "\u0663".encode()]


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.parametrize("kind", WRITERS)
def test_damage_anywhere_is_refused_or_read_and_never_crashes(tmp_path, kind, data):
    write, name = WRITERS[kind]
    whole = write([("he", 0.12, 0.3), ("", 0.3, 0.4), ('w"as', 0.4, 0.52)], 1.0).encode()
    place = data.draw(st.integers(0, len(whole)))
    junk = data.draw(st.binary(max_size=6) | st.sampled_from(JUNK))
    path = written(tmp_path, name, whole[:place] + junk + whole[place + data.draw(st.integers(0, 30)) :])
    said = str(path)
    try:
        READERS[name](path)
    except SpeechError as error:
        said = str(error)
    assert str(path) in said


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200) | json_values.map(json.dumps))
@pytest.mark.parametrize("name", READERS)
def test_rubbish_is_refused_and_never_crashes(tmp_path, name, content):
    with pytest.raises(SpeechError):
        READERS[name](written(tmp_path, name, content))
