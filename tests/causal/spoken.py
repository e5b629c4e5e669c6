"""What the causal command is given on disk: checkpoints of three families, a quantiser, and the same sentences as facts, corpus, recordings and units.

eSpeak says everything, and everything is written as its owners write it: a quantiser as a folder of HuBERT with centroids, facts as a Parquet file with
sounds as `datasets` keep them, a corpus as LibriSpeech aligned by the Montreal aligner, units as slamkit's JSON Lines.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from slm_interp.convert import load
from slm_interp.speech.acoustic import AcousticQuantiser
from slm_interp.speech.audio import resample
from slm_interp.speech.hubert import HubertQuantiser, HubertRecipe
from slm_interp.speech.synthesis import Synthesis, synthesise
from slm_interp.speech.units import merged
from tests.family_replicas import write_replica
from tests.replicas import VARIANTS, text_tokenizer, write_slamkit
from tests.speech.test_hubert import tiny

FRAMES = ("now say {word} again", "he wrote {word} twice")
ANSWERS = {
    "sea": "paris",
    "she": "rome",
    "step": "madrid",
    "capital": "lima",
    "and": "havana",
    "the": "berlin",
}  # words of one piece in every replica
CARRIER = "green"
WORDS = [*"now say again he wrote twice".split(), CARRIER, *ANSWERS, *ANSWERS.values()]
VOICES = ("en-us", "en-gb")
N_UNITS = {"slamkit": 120, "spiritlm": 501, "glm4voice": 16_384}
PROMPTS = [  # the second frame begins with another word, so that neighbours there are other pairs
    (frame.format(word=word), word) for by, frame in enumerate(FRAMES) for word in [*list(ANSWERS)[by:], *list(ANSWERS)[:by]]
]
SENTENCES = [f"{prompt} {ANSWERS[word]}" for prompt, word in PROMPTS]


@cache
def said(text: str, voice: str = VOICES[0]) -> Synthesis:
    return synthesise(text, voice)


def checkpoint(folder: Path, family: str) -> tuple[str, ...]:
    """A folder in the family's full format, and how the command line names it."""
    if family != "slamkit":
        write_replica(folder, family)
        return (str(folder), *(("--form", "stream") if family == "glm4voice" else ()))
    tokenizer = text_tokenizer(WORDS)
    write_slamkit(folder, VARIANTS["qwen2"], vocab_size=len(tokenizer) + N_UNITS[family] + 2)
    tokenizer.save_pretrained(folder / "text")
    return (str(folder), "--text-tokenizer", str(folder / "text"))


def quantiser(folder: Path, n_units: int) -> Path:
    """mHuBERT as a user gives it; its centroids are states of what is said, so that units differ."""
    model = tiny()
    model.save_pretrained(folder)
    bare = HubertQuantiser(model, np.zeros((n_units, 32)), HubertRecipe(layer=3, n_units=n_units))
    states = np.concatenate([bare.features(resample(said(text).audio, 16_000)).numpy() for text in SENTENCES])
    while len(states) < n_units:
        states = np.concatenate([states, states + 1e-3])
    chosen = np.linspace(0, len(states) - 1, n_units).round().astype(int)
    np.save(folder / "centroids.npy", states[chosen])
    (folder / "quantiser.json").write_text(json.dumps({"kind": "hubert", "layer": 3, "n_units": n_units}))
    return folder


# -- what is said ------------------------------------------------------------------------------------


def word_list(path: Path) -> Path:
    """Words of the first frame, each beside the next."""
    words = list(ANSWERS)
    rows = [(FRAMES[0], a, b, ANSWERS[a], ANSWERS[b], CARRIER) for a, b in zip(words, [*words[1:], words[0]], strict=True)]
    pd.DataFrame(rows, columns=["frame", "clean", "corrupted", "answer", "distractor", "carrier"]).to_csv(path, index=False)
    return path


def listed() -> list[str]:
    """The sentences that the word list needs, and those of the second frame."""
    return [*SENTENCES, *(f"{FRAMES[0].format(word=word)} {CARRIER}" for word in ANSWERS)]


def facts(path: Path) -> Path:
    """As the published set: sounds as bytes, words of the prompt with their seconds."""
    rows = []
    for prompt, word in PROMPTS[: len(ANSWERS)]:
        spoken, right, wrong = said(prompt), said(ANSWERS[word]), said("london")
        rows.append(
            {
                "id": prompt,
                "audio": {"bytes": spoken.audio.wav_bytes(), "path": None},
                "timings": [{"word": one.text, "start": one.start_s, "end": one.end_s} for one in spoken.words],
                "fact_audio": {"bytes": right.audio.wav_bytes(), "path": None},
                "counterfact_audio": {"bytes": wrong.audio.wav_bytes(), "path": None},
                "fact": ANSWERS[word],
            }
        )
    pd.DataFrame(rows).to_parquet(path)
    return path


def corpus(folder: Path, texts: list[str], voice: str = VOICES[0]) -> Path:
    """Sounds with a TextGrid beside each, in LibriSpeech's names."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, text in enumerate(texts):
        spoken, stem = said(text, voice), f"1272-128104-{number:04d}"
        (folder / f"{stem}.wav").write_bytes(spoken.audio.wav_bytes())
        (folder / f"{stem}.TextGrid").write_text(textgrid(spoken))
    return folder


def textgrid(spoken: Synthesis) -> str:
    """The long text format, one tier of words, silence to the end."""
    last, whole = spoken.words[-1].end_s, max(spoken.audio.seconds, spoken.words[-1].end_s)
    entries = [(one.start_s, one.end_s, one.text) for one in spoken.words] + ([(last, whole, "")] if whole > last else [])
    if entries[0][0] > 0:
        entries.insert(0, (0.0, entries[0][0], ""))
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {whole}", "tiers? <exists>", "size = 1"]
    lines += [
        "item []:",
        "    item [1]:",
        '        class = "IntervalTier"',
        '        name = "words"',
        "        xmin = 0",
        f"        xmax = {whole}",
    ]
    lines.append(f"        intervals: size = {len(entries)}")
    for number, (start, end, text) in enumerate(entries, 1):
        lines += [
            f"        intervals [{number}]:",
            f"            xmin = {start}",
            f"            xmax = {end}",
            f'            text = "{text}"',
        ]
    return "\n".join(lines) + "\n"


# -- units from elsewhere --------------------------------------------------------------------------------


def units_of(spoken: Synthesis, family: str) -> tuple[list[int], list[int]]:
    """Units as if the family's own tokenizer had made them, and how many frames of 40 ms each lasts: GLM-4-Voice's all last 80 ms and may repeat."""
    carried = organism()
    frames = np.asarray(carried.frames(resample(spoken.audio, carried.recipe.sample_rate)), dtype=np.int64)
    if family == "glm4voice":
        return (frames[::2] * 61).tolist(), [2] * len(frames[::2])
    made = merged(frames % N_UNITS[family], 0.04)
    return made.units.tolist(), made.durations.tolist()


@cache
def organism() -> AcousticQuantiser:
    found = load("tiny").quantiser
    assert isinstance(found, AcousticQuantiser)
    return found


def features(path: Path, texts: list[str], family: str) -> Path:
    """slamkit's `features.jsonl`, each record with its words and their seconds."""
    lines = []
    for number, text in enumerate(texts):
        spoken = said(text)
        units, durations = units_of(spoken, family)
        words = [[f" {one.text}", one.start_s, one.end_s] for one in spoken.words]
        lines.append(json.dumps({"units": units, "duration": durations, "file_name": f"{number:04d}.flac", "aligned_text": words}))
    path.write_text("\n".join(lines) + "\n")
    return path


def facts_in_units(path: Path, family: str) -> Path:
    """The same facts, whose sounds somebody else made units of."""
    rows = []
    for prompt, word in PROMPTS[: len(ANSWERS)]:
        (units, durations), (right, _) = units_of(said(prompt), family), units_of(said(ANSWERS[word]), family)
        words = [{"word": one.text, "start": one.start_s, "end": one.end_s} for one in said(prompt).words]
        rows.append({"id": prompt, "units": units, "frames": durations, "timings": words, "fact_units": right, "fact": ANSWERS[word]})
    pd.DataFrame(rows).to_parquet(path)
    return path
