from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from slm_interp.errors import VocabularyError
from slm_interp.vocabulary import KINDS, IdRange, JointVocabulary, check_quantiser, tiled

SLAMKIT = JointVocabulary(
    (
        IdRange("text", 0, 5),
        IdRange("speech", 5, 9, codebook=0, template="<Un{}>"),
        IdRange("marker", 9, 10, template="<speech>"),
        IdRange("marker", 10, 11, template="<text>"),
        IdRange("dead", 11, 16),
    ),
    16,
    "one",
)


class Tokenizer:
    """As much of a Hugging Face tokenizer as the check asks for."""

    def __init__(self, vocabulary: dict[str, int]) -> None:
        self.vocabulary = vocabulary

    def get_vocab(self) -> dict[str, int]:
        return self.vocabulary

    def decode(self, ids: list[int]) -> str:
        return next(token for token, identifier in self.vocabulary.items() if identifier == ids[0])

    def __len__(self) -> int:
        return len(self.vocabulary)


TEXT = {letter: i for i, letter in enumerate("abcde")}
ADDED = {**{f"<Un{i}>": 5 + i for i in range(4)}, "<speech>": 9, "<text>": 10}


@st.composite
def vocabularies(draw: st.DrawFn) -> JointVocabulary:
    """Blocks in random order: text, dead rows, markers, and groups of interleaved codebooks."""
    ranges: list[IdRange] = []
    start, codebook = 0, 0
    for number, block in enumerate(draw(st.lists(st.sampled_from(["text", "dead", "marker", "speech"]), min_size=1, max_size=6))):
        length = draw(st.integers(1, 12))
        if block == "marker":
            ranges.append(IdRange("marker", start, start + 1, template=f"<m{number}>"))
            start += 1
        elif block == "speech":
            books = draw(st.integers(1, 4))
            for book in range(books):
                ranges.append(IdRange("speech", start + book, start + books * length, books, codebook, f"<c{codebook}_{{}}>"))
                codebook += 1
            start += books * length
        else:
            ranges.append(IdRange(block, start, start + length))
            start += length
    return JointVocabulary(tuple(draw(st.permutations(ranges))), start)


@given(vocabularies())
def test_masks_of_the_kinds_share_no_id_and_cover_every_row(vocabulary):
    total = sum(vocabulary.mask(kind).int() for kind in KINDS)
    assert (total == 1).all()
    assert vocabulary.kinds == tuple(kind for kind in KINDS if vocabulary.mask(kind).any())


@given(vocabularies())
def test_masks_of_the_codebooks_share_no_id_and_cover_the_speech(vocabulary):
    books = [vocabulary.mask("speech", codebook).int() for codebook in vocabulary.codebooks]
    assert torch.equal(sum(books, torch.zeros(vocabulary.size, dtype=torch.int32)), vocabulary.mask("speech").int())


@given(vocabularies())
def test_units_become_ids_and_come_back(vocabulary):
    for codebook in vocabulary.codebooks:
        units = torch.arange(vocabulary.n_units(codebook))
        ids = vocabulary.unit_to_id(units, codebook)
        assert torch.equal(ids, vocabulary.mask("speech", codebook).nonzero().flatten())
        assert torch.equal(vocabulary.id_to_unit(ids, codebook), units)
        assert [vocabulary.spelled(int(one)) for one in ids] == [f"<c{codebook}_{int(unit)}>" for unit in units]


@given(vocabularies())
def test_ids_of_another_codebook_or_kind_are_no_units(vocabulary):
    for codebook in vocabulary.codebooks:
        for foreign in (~vocabulary.mask("speech", codebook)).nonzero().flatten():
            with pytest.raises(VocabularyError, match=f"Id {int(foreign)} is no unit of codebook {codebook}"):
                vocabulary.id_to_unit(foreign, codebook)


@given(vocabularies())
def test_the_kind_of_an_id_is_the_kind_of_the_range_that_holds_it(vocabulary):
    for one in vocabulary.ranges:
        assert {vocabulary.kind_of(identifier) for identifier in one.ids} == {one.kind}


@given(vocabularies())
def test_what_a_family_does_not_know_is_declared_dead(vocabulary):
    known = [one for one in vocabulary.ranges if one.kind != "dead"]
    completed = tiled(known, vocabulary.size)
    assert torch.equal(completed.mask("dead"), vocabulary.mask("dead"))
    assert [one for one in completed.ranges if one.kind != "dead"] == sorted(known, key=lambda one: one.start)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32])
def test_units_in_a_narrow_dtype_become_wide_ids(dtype):
    large = JointVocabulary((IdRange("text", 0, 151_665), IdRange("speech", 151_665, 151_785, codebook=0)), 151_785)
    ids = large.unit_to_id(torch.tensor([0, 119], dtype=dtype))
    assert ids.tolist() == [151_665, 151_784]
    assert ids.dtype == torch.int64


def test_slamkit_counts_units_from_the_end_of_the_text():
    assert SLAMKIT.unit_to_id(torch.tensor([[0, 3]])).tolist() == [[5, 8]]
    assert (SLAMKIT.marker("<speech>"), SLAMKIT.marker("<text>")) == (9, 10)
    assert [SLAMKIT.spelled(i) for i in (0, 5, 8, 9, 10, 15)] == [None, "<Un0>", "<Un3>", "<speech>", "<text>", None]


def test_a_marker_is_spelled_as_it_stands_braces_and_all():
    assert JointVocabulary((IdRange("marker", 0, 1, template="{{speech}}"),), 1).spelled(0) == "{{speech}}"


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: IdRange("sound", 0, 1), "A range is one of text, speech, marker, other, dead; got 'sound'."),
        (lambda: IdRange("text", 3, 3), "An id range needs 0 <= start < stop and step >= 1; got 3:3:1 for text."),
        (lambda: IdRange("text", -1, 3), "got -1:3:1 for text"),
        (lambda: IdRange("text", 0, 3, 0), "got 0:3:0 for text"),
        (lambda: IdRange("speech", 0, 3), "Speech ranges, and only they, name their codebook; got codebook=None for speech."),
        (lambda: IdRange("text", 0, 3, codebook=0), "got codebook=0 for text"),
        (lambda: IdRange("marker", 0, 2, template="<a>"), "A marker is one id with its spelling as template; got ids 0:2, template '<a>'."),
        (lambda: IdRange("marker", 0, 1), "got ids 0:1, template None"),
        (
            lambda: IdRange("speech", 0, 3, codebook=0, template="<Un>"),
            "A template of several ids needs a place for the number, as in '<Un{}>'; got '<Un>'.",
        ),
        (lambda: JointVocabulary((), 0), "An embedding has at least one row; got size=0."),
        (lambda: JointVocabulary((IdRange("text", 0, 3),), 4), "Ranges must tile 0..3 exactly; id 3 is in 0 ranges (1 such ids)."),
        (
            lambda: JointVocabulary((IdRange("text", 0, 3), IdRange("dead", 2, 4)), 4),
            "Ranges must tile 0..3 exactly; id 2 is in 2 ranges (1 such ids).",
        ),
        (lambda: JointVocabulary((IdRange("text", 0, 5),), 4), "text ids 0..4 run past the 4 rows of the embedding."),
        (
            lambda: JointVocabulary((IdRange("marker", 0, 1, template="<a>"), IdRange("marker", 1, 2, template="<a>")), 2),
            "Each marker and each codebook is declared once; '<a>' is declared again.",
        ),
        (
            lambda: JointVocabulary((IdRange("speech", 0, 4, 2, codebook=7), IdRange("speech", 1, 4, 2, codebook=7)), 4),
            "Each marker and each codebook is declared once; 7 is declared again.",
        ),
        (lambda: tiled([IdRange("text", 0, 9)], 4), "text ids 0..8 run past the 4 rows"),
        (lambda: SLAMKIT.mask("sound"), "A kind is one of text, speech, marker, other, dead; got 'sound'."),
        (lambda: SLAMKIT.mask("text", codebook=0), "Only speech has codebooks; got kind 'text' with codebook=0."),
        (lambda: SLAMKIT.n_units(3), "No codebook 3 here; there are [0]."),
        (
            lambda: SLAMKIT.unit_to_id(torch.tensor([0, 4])),
            "Codebook 0 has units 0..3; got 4. Are these units of another quantiser?",
        ),
        (lambda: SLAMKIT.unit_to_id(torch.tensor([-1])), "Codebook 0 has units 0..3; got -1."),
        (lambda: SLAMKIT.id_to_unit(torch.tensor([9])), "Id 9 is no unit of codebook 0 (ids 5..8, step 1)."),
        (lambda: SLAMKIT.check_ids(torch.tensor([3, 16, -2])), "Ids must lie in 0..15; got 16 (2 outside)."),
        (lambda: SLAMKIT.kind_of(16), "Ids must lie in 0..15; got 16"),
        (lambda: SLAMKIT.spelled(-1), "Ids must lie in 0..15; got -1"),
        (lambda: SLAMKIT.marker("<sound>"), "No marker '<sound>' here; there are ['<speech>', '<text>']."),
        (lambda: SLAMKIT.check_embedding(17), "The vocabulary declares 16 ids; the embedding has 17 rows."),
    ],
)
@pytest.mark.usefixtures("as_users_run_it")
def test_what_does_not_fit_is_refused_in_a_sentence(make, sentence):
    with pytest.raises(VocabularyError, match=re.escape(sentence)):
        make()


@pytest.mark.parametrize("vocabulary", [{**TEXT, **ADDED}, TEXT])
def test_a_tokenizer_may_know_the_units_or_only_the_text(vocabulary):
    SLAMKIT.check_tokenizer(Tokenizer(vocabulary))


@pytest.mark.parametrize(
    ("vocabulary", "sentence"),
    [
        ({**TEXT, "z": 16}, "The tokenizer has 6 tokens; 'z' is id 16, past the 16 rows of the embedding."),
        ({**TEXT, "z": 6}, "Id 6 is declared as '<Un1>'; the tokenizer calls it 'z'. Is this another model's tokenizer?"),
        ({**TEXT, **ADDED, "<speech>": 10, "<text>": 9}, "Id 9 is declared as '<speech>'; the tokenizer calls it '<text>'."),
        ({**TEXT, "z": 12}, "The tokenizer emits 'z' as id 12, which is declared dead."),
        (
            {"a": 0, "b": 1, "c": 2, "d": 3, "<Un1>": 4},
            "'<Un1>' is declared as id 6; the tokenizer says 4. Is this another model's tokenizer?",
        ),
        ({"a": 0, "b": 1, "c": 2}, "2 ids declared text are no token of this tokenizer, the first 3. Declare them dead"),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_refused(vocabulary, sentence):
    with pytest.raises(VocabularyError, match=re.escape(sentence)):
        SLAMKIT.check_tokenizer(Tokenizer(vocabulary))


def test_a_tokenizer_is_checked_without_a_tensor_for_every_token(monkeypatch):
    """At 152,000 tokens that took 8 s, where a whole load has 3."""
    calls = []
    monkeypatch.setattr(JointVocabulary, "check_ids", lambda self, ids: calls.append(ids))
    SLAMKIT.check_tokenizer(Tokenizer({**TEXT, **ADDED}))
    assert not calls


@pytest.mark.parametrize(("wanted", "came"), [("one", "two"), ("one", None), (None, "two")])
def test_units_of_another_quantiser_are_refused_both_ways(wanted, came):
    sentence = f"The model's units come from quantiser {wanted or 'undeclared'}; these come from {came or 'undeclared'}. Unit numbers"
    with pytest.raises(VocabularyError, match=re.escape(sentence)):
        check_quantiser(wanted, came)


@pytest.mark.parametrize("same", ["one", None])
def test_units_of_the_same_quantiser_pass(same):
    check_quantiser(same, same)


def test_a_vocabulary_says_what_it_is():
    assert repr(SLAMKIT) == ("JointVocabulary(16 ids: text 0..4, speech 5..8, <speech> 9..9, <text> 10..10, dead 11..15; quantiser one)")
    html = JointVocabulary((IdRange("marker", 0, 1, template="<script>"),), 1)._repr_html_()
    assert "&lt;script&gt;" in html
    assert "<script>" not in html
