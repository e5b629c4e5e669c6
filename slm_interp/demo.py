"""The main job from end to end: a sound, its words, what every layer says, and a page to look at."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from os import PathLike
from pathlib import Path

from slm_interp import organisms, speech
from slm_interp.convert import load
from slm_interp.lenses import LogitLens
from slm_interp.lenses.page import Clip, lens_page, summary
from slm_interp.model import SpeechTextModel
from slm_interp.utterance import Utterance

RECORDED_SECONDS = 5.2  # "chapter one mrs rachel lynde is surprised": the title, before the story begins


def run(out: str | PathLike[str], organism: str = "tiny") -> str:
    """The demo: one synthesised and one recorded clip through a packaged organism.

    Args:
        out: folder for `lens.html`.
        organism: its name.

    Returns:
        What was found, in plain words, and the file to open.
    """
    slm = load(organism)
    sample = organisms.samples(organism)[0]
    clips = [
        clip_of(
            slm,
            sample.utterance(slm),
            "Synthesised speech, held out",
            "A sentence of the organism's own world that it was not trained on, spoken by eSpeak NG.",
        ),
        clip_of(slm, recorded(slm), "Recorded speech, out of domain", RECORDED_NOTE),
    ]
    page = Path(out) / "lens.html"
    lens_page(clips, title=f"What every layer of {organism} says").write(page)
    found = "\n\n".join(f"{clip.title}: {' '.join(word.text for word in clip.utterance.words)}\n{summary(clip.dataset)}" for clip in clips)
    return f"{slm!r}\n\n{found}\n\nOpen {page}"


RECORDED_NOTE = (
    "A LibriSpeech-style reading, aligned by force, through the organism's own quantiser. The organism never heard such a voice nor most of these "
    "words, so this shows that the path works on real speech and nothing about how speech language models hear."
)


def recorded(slm: SpeechTextModel) -> Utterance:
    """The first seconds of the recorded clip that ships with the package, with its words."""
    folder = Path(str(resources.files("slm_interp"))) / "speech" / "clips"
    audio = speech.read_audio(folder / "audio1.flac")
    words = speech.align(audio, json.loads((folder / "transcripts.json").read_text())["audio1"])
    kept = [word for word in words if word.end_s <= RECORDED_SECONDS]
    return speech.utterance(slm, audio=audio.slice(0.0, RECORDED_SECONDS), words=kept, name="recorded clip")


def clip_of(slm: SpeechTextModel, utterance: Utterance, title: str, note: str) -> Clip:
    """Read an utterance with the logit lens and sum it up."""
    reading = LogitLens(slm).read(utterance)
    return Clip(title, utterance, reading.dataset, note)


def lens_file(
    slm: SpeechTextModel,
    recording: str | PathLike[str],
    out: str | PathLike[str],
    transcript: str | None = None,
    words: Sequence[speech.TimedWord] | None = None,
    form: str | None = None,
) -> str:
    """Read a recording with the logit lens and write one self-contained page.

    Args:
        slm: the model.
        recording: a sound file.
        out: the page.
        transcript: the words spoken, aligned by force. Or
        words: with their seconds.
        form: a prompt form; None is that of the training sequences.

    Returns:
        What was found, in plain words, and the file to open.
    """
    name = Path(recording).name
    utterance = speech.utterance(slm, audio=Path(recording), transcript=transcript, words=words, form=form, name=name)
    clip = clip_of(slm, utterance, name, f"Read with {slm.provenance['checkpoint']}.")
    lens_page([clip], title=f"What every layer says of {name}").write(out)
    return f"{slm!r}\n\n{summary(clip.dataset)}\n\nOpen {out}"
