from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from slm_interp.errors import SpeechError
from slm_interp.organisms import corpus as corpora
from slm_interp.organisms.corpus import Document, Spoken
from slm_interp.organisms.recipe import Recipe
from slm_interp.speech.acoustic import AcousticQuantiser


def facts_of(documents: Sequence[Document]) -> list[list[tuple[object, ...]]]:
    """Everything a document holds, to compare."""

    def facts(one: Spoken) -> tuple[object, ...]:
        return one.prompt, one.words, one.units.units.tolist(), one.units.durations.tolist(), one.units.frame_s, one.units.quantiser

    return [[facts(one) for one in document] for document in documents]


def test_what_is_saved_is_what_is_loaded(heard: dict[str, list[Document]], quantiser: AcousticQuantiser, tmp_path: Path) -> None:
    documents = heard["train"]
    corpora.save(documents, tmp_path / "some.safetensors")
    assert facts_of(corpora.load(tmp_path / "some.safetensors", quantiser)) == facts_of(documents)
    assert len({len(document) for document in documents}) > 1


def test_a_corpus_of_another_quantiser_is_refused(speech_folder: Path, quantiser: AcousticQuantiser) -> None:
    other = AcousticQuantiser(quantiser.recipe, quantiser.centroids + 1, quantiser.scale)
    with pytest.raises(SpeechError, match=f"holds units of quantiser {quantiser.hash}; wanted {other.hash}"):
        corpora.load(speech_folder / "train.safetensors", other)


def test_the_corpus_does_not_depend_on_how_many_processes_made_it(
    recipe: Recipe, heard: dict[str, list[Document]], quantiser: AcousticQuantiser
) -> None:
    texts = [[one.text for one in document] for document in recipe.world.documents(3, recipe.world.seed)]
    said = corpora.prompts(texts, recipe.speaking.voices, recipe.speaking, recipe.world.seed)
    alone, together = (corpora.speak(said, quantiser, processes) for processes in (1, 2))
    assert facts_of(alone) == facts_of(together) == facts_of(heard["train"][:3])


def test_one_speaker_tells_a_document_and_documents_have_different_ones(recipe: Recipe) -> None:
    texts = [["a", "b", "c"]] * 40
    drawn = corpora.prompts(texts, ("en-us", "en-gb"), type(recipe.speaking)(), seed=0)
    styles = [{(one.voice, one.rate, one.pitch) for one in document} for document in drawn]
    assert all(len(some) == 1 for some in styles)
    assert {one.voice for document in drawn for one in document} == {"en-us", "en-gb"}
    assert len({style for some in styles for style in some}) > 10
    assert [[one.text for one in document] for document in drawn] == texts


def test_sides_are_spoken_by_the_voices_and_of_the_texts_they_should_be(recipe: Recipe, heard: dict[str, list[Document]]) -> None:
    texts = {name: [one.prompt.text for document in documents for one in document] for name, documents in heard.items()}
    voices = {name: {one.prompt.voice for document in documents for one in document} for name, documents in heard.items()}
    assert len(heard["train"]) == recipe.documents
    assert texts["held_out"] == texts["other_voices"]
    assert len(texts["held_out"]) == recipe.held_out
    assert not set(texts["train"]) & set(texts["held_out"])
    assert voices["train"] == set(recipe.speaking.voices) >= voices["held_out"]
    assert voices["other_voices"] == set(recipe.speaking.held_out)


def test_words_are_timed_and_units_are_of_the_whole_sentence(heard: dict[str, list[Document]], quantiser: AcousticQuantiser) -> None:
    for one in heard["held_out"][0] + heard["train"][0][:1]:
        audio, words = one.prompt.audio(quantiser.recipe.sample_rate)
        assert words == one.words
        assert tuple(word.text for word in words) == tuple(one.prompt.text.split())
        assert np.array_equal(quantiser.encode(audio).units, one.units.units)
        assert one.units.seconds == pytest.approx(audio.seconds, abs=one.units.frame_s)


def test_the_quantiser_depends_on_the_recipe_alone(recipe: Recipe, quantiser: AcousticQuantiser) -> None:
    assert corpora.fit_quantiser(recipe, processes=1).hash == quantiser.hash
