"""What a trained organism shows, in plain Hugging Face arithmetic: the figures that go into its manifest.

The logit lens here is `softmax(head(final_norm(hidden)))` at the output of the embedding (layer 0) and of each block,
on sentences whose texts were never trained on, heard throughout (`<speech>` and units). It is kept apart from the
package's own lenses, so that each can be held against the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from slm_interp.errors import SpeechError
from slm_interp.organisms.corpus import Spoken
from slm_interp.organisms.interleave import spoken
from slm_interp.organisms.material import Material
from slm_interp.speech.spans import heard_words, words_to_spans
from slm_interp.utterance import Word

TOP = 5
MARKED = 60  # sentences for the one figure that needs a run of the model per word
WHAT = {
    "all": "Held-out sentences: texts never trained on, voices of the training set. Heard throughout unless said otherwise. "
    "Weights as shipped, computed in float32. Lists go by layer: 0 is the output of the embedding, the last the model's own output.",
    "mass": "Mean over all unit positions of the probability of: all text ids; first pieces of the lexicon's words; single letters.",
    "next_word, current_word": f"Share of words whose first piece is among the {TOP} likeliest text ids. Of words that have a next one.",
    "at_last_unit, in_span": "Asked at the last unit of the current word; or at any of its units, as the paper pools.",
    "null": "The same positions and pooling, asked for the next word of another place.",
    "joint": f"Among the {TOP} likeliest of all ids instead of text ids.",
    "best": "The best layer, chosen on the same sentences.",
    "after_text_marker": f"The model's own output after units up to the end of a word and <text>; first {MARKED} sentences.",
    "when_read": "The model's own output for the same words as text.",
}


@torch.no_grad()
def measure(model: Any, material: Material, heard: Sequence[Spoken]) -> dict[str, Any]:
    """Figures of a joint model on spoken sentences, and under `what` how each was made.

    Raises:
        SpeechError: no sentence has two words with units.
    """
    model.eval()
    text = material.vocabulary.mask("text")
    first = {word: ids[:1] for word, ids in material.speller.whole.items()}
    columns = {"text": text, "word": _mask(first, text), "letter": _mask(material.speller.letters, text)}
    masses: dict[str, list[Tensor]] = {name: [] for name in columns}
    losses, places = [], []
    for one in heard:
        ids, words = heard_ids(one, material)
        logits = lens_logits(model, ids)
        for name, mask in columns.items():
            masses[name].append(logits.softmax(-1)[:, 1:, mask].sum(-1).mean(-1))
        losses.append(float(torch.nn.functional.cross_entropy(logits[-1, :-1], ids[1:])))
        places += [(logits[:, word.span.start : word.span.stop], word.text, following.text) for word, following in pairwise(words)]
    if not places:
        raise SpeechError("There is nothing to measure on: no sentence has two words with units.")
    hits = _hits(places, material, text)
    figures: dict[str, Any] = {f"{name}_mass_by_layer": _rounded(torch.stack(rows).mean(0)) for name, rows in masses.items()}
    figures |= {f"{name}_by_layer": _rounded(found.double().mean(0)) for name, found in hits.items()}
    best = {f"{name}_best": [max(figures[f"{name}_by_layer"]), int(np.argmax(figures[f"{name}_by_layer"]))] for name in hits}
    return {
        "what": WHAT,
        "sentences": len(heard),
        "words": len(places),
        **figures,
        **best,
        "speech_loss_nats_per_unit": round(float(np.mean(losses)), 4),
        "next_word_after_text_marker": round(_marked(model, material, heard, text), 4),
        "next_word_when_read": round(_read(model, material, heard, text), 4),
    }


def lens_logits(model: Any, ids: Int[Tensor, " pos"]) -> Float[Tensor, "layer pos d_vocab"]:
    """The logit lens at every layer of one row; the last is the model's own output."""
    output = model(input_ids=ids[None], output_hidden_states=True)
    inner = torch.stack(output.hidden_states[:-1]).squeeze(1)  # the last hidden state has been normed already
    return torch.cat([model.lm_head(model.model.norm(inner)), output.logits]).float()


def heard_ids(heard: Spoken, material: Material) -> tuple[Int[Tensor, " pos"], tuple[Word, ...]]:
    """A sentence heard throughout, and those of its words that have units."""
    words = heard_words(heard.words, heard.units).words
    return torch.tensor(spoken(heard.units, material.codes)), words_to_spans(words, heard.units, offset=1)


def _hits(
    places: Sequence[tuple[Float[Tensor, "layer _ d_vocab"], str, str]], material: Material, text: Bool[Tensor, " d_vocab"]
) -> dict[str, Bool[Tensor, "word layer"]]:
    """Whether each word is found, under each rule: current or next or null, at the last unit or in the span."""
    others = np.random.default_rng(0).permutation([following for _, _, following in places])
    found: dict[str, list[Tensor]] = {}
    for (logits, now, after), other in zip(places, others, strict=True):
        for name, word in (("next_word", after), ("current_word", now), ("null", str(other))):
            identifier = material.speller.whole[word][0]
            inside = _rank(logits[..., text], identifier) < TOP
            found.setdefault(f"{name}_at_last_unit", []).append(inside[:, -1])
            found.setdefault(f"{name}_in_span", []).append(inside.any(-1))
        joint = _rank(logits[:, -1], material.speller.whole[after][0]) < TOP
        found.setdefault("next_word_at_last_unit_joint", []).append(joint)
    return {name: torch.stack(rows) for name, rows in found.items()}


def _rank(logits: Float[Tensor, "*place d_vocab"], identifier: int) -> Int[Tensor, "*place"]:
    """How many ids score higher."""
    return (logits > logits[..., identifier, None]).sum(-1)


def _mask(spelled: dict[str, tuple[int, ...]], text: Bool[Tensor, " d_vocab"]) -> Bool[Tensor, " d_vocab"]:
    mask = torch.zeros_like(text)
    mask[[identifier for ids in spelled.values() for identifier in ids]] = True
    return mask


def _marked(model: Any, material: Material, heard: Sequence[Spoken], text: Bool[Tensor, " d_vocab"]) -> float:
    """Share of next words found at the output when the marker asks for text after the units of a word."""
    found, marker = [], torch.tensor([material.vocabulary.marker("<text>")])
    for one in heard[:MARKED]:
        ids, words = heard_ids(one, material)
        for word, following in pairwise(words):
            logits = model(input_ids=torch.cat([ids[: word.span.stop], marker])[None]).logits[0, -1, text].float()
            found.append(bool(_rank(logits, material.speller.whole[following.text][0]) < TOP))
    return float(np.mean(found)) if found else 0.0


def _read(model: Any, material: Material, heard: Sequence[Spoken], text: Bool[Tensor, " d_vocab"]) -> float:
    """Share of next words found at the output when the same sentences are read."""
    found = []
    for one in heard:
        pieces = [material.speller.whole[word.text] for word in one.words]
        ids = torch.tensor([material.vocabulary.marker("<text>"), *(identifier for word in pieces for identifier in word)])
        before = np.cumsum([0, *(len(word) for word in pieces)])[:-1]  # the position that predicts each word's first piece
        logits = model(input_ids=ids[None]).logits[0, before[1:]][:, text].float()
        found += [bool(_rank(row, word[0]) < TOP) for row, word in zip(logits, pieces[1:], strict=True)]
    return float(np.mean(found))


def _rounded(values: Float[Tensor, " layer"]) -> list[float]:
    return [round(float(value), 4) for value in values]
