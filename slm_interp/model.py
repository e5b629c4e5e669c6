"""A speech-text language model: a HookedTransformer, its joint vocabulary, its prompt forms, its tokenizer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from slm_interp import hooked
from slm_interp.audio import Audio
from slm_interp.errors import UtteranceError, VocabularyError
from slm_interp.prompt import Modality, PromptFormat, Segment, lay_out
from slm_interp.streams import begun_in, flattened, merged_by_time
from slm_interp.strings import pieces
from slm_interp.utterance import Span, Utterance, Word
from slm_interp.vocabulary import JointVocabulary, Kind, check_quantiser


@dataclass(frozen=True, eq=False)
class SpeechTextModel:
    """What every tool of this package takes.

    Args:
        model: a real `HookedTransformer`; every TransformerLens tool works on it.
        vocabulary: which of its ids are text, speech, markers, dead.
        prompts: the family's prompt forms.
        tokenizer: a Hugging Face tokenizer of the text ids; None for models without text.
        provenance: checkpoint, fingerprint, family, architecture, versions.
        quantiser: turns audio into this model's units, where the checkpoint carries one.
        folder: where the weights lie; not part of the provenance, which must mean the same on every machine.
    """

    model: hooked.HookedTransformer
    vocabulary: JointVocabulary
    prompts: PromptFormat
    tokenizer: Any | None = None
    provenance: Mapping[str, str] = field(default_factory=dict)
    quantiser: Any | None = None
    folder: Path | None = None

    def __post_init__(self) -> None:
        self.vocabulary.check_embedding(self.model.cfg.d_vocab)
        if self.quantiser is not None:
            check_quantiser(self.vocabulary.quantiser, self.quantiser.hash)

    # -- ids and words -------------------------------------------------------------------------------

    def label(self, identifier: int) -> str:
        """What to print for an id: `Un7`, `<speech>`, ` cat`."""
        spelled = self.vocabulary.spelled(identifier)
        if spelled is not None:
            return spelled
        if self.tokenizer is None or self.vocabulary.kind_of(identifier) == "dead":
            return f"id {identifier}"
        return str(self.tokenizer.decode([identifier]))

    def labels(self, ids: Int[Tensor, " pos"]) -> tuple[str, ...]:
        """Labels of a row of ids."""
        return tuple(self.label(int(one)) for one in ids)

    def word_ids(self, word: str) -> tuple[int, ...]:
        """The pieces of a word as it stands inside a sentence, with its leading space (added where it is missing).

        Raises:
            VocabularyError: a model without text, a blank word, or one its tokenizer cannot spell in text ids.
        """
        if not word.strip():
            raise VocabularyError(f"A word has letters; got {word!r}.")
        return tuple(self._encode(" " + word.strip())[0])

    def _encode(self, text: str, kinds: Sequence[Kind] = ("text",)) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids of a text and where each stands in it, once they are known to be of these kinds and without an unknown piece.

        The text is spelled as it stands after the marker of text, where there is one: at the start of a string a sentencepiece
        tokenizer would put a blank before it.
        """
        if self.tokenizer is None or "text" not in self.vocabulary.kinds:
            raise VocabularyError("This model has no text ids: it was trained on speech alone.")
        marker = self.prompts.markers.get("text")
        before = "" if marker is None else str(self.vocabulary.spelled(marker))
        encoded = self.tokenizer(before + text, add_special_tokens=False, return_offsets_mapping=True)
        ids, places = encoded["input_ids"], [(start - len(before), stop - len(before)) for start, stop in encoded["offset_mapping"]]
        if marker is not None:
            if ids[:1] != [marker]:
                raise VocabularyError(f"The tokenizer should spell {before!r} as id {marker}; it makes {ids[:3]} of {before + text!r}.")
            ids, places = ids[1:], places[1:]
        if not ids or self.tokenizer.unk_token_id in ids:
            raise VocabularyError(f"The tokenizer cannot spell {text!r}.")
        foreign = [one for one in ids if self.vocabulary.kind_of(one) not in kinds]
        if foreign:
            kind = self.vocabulary.kind_of(foreign[0])
            raise VocabularyError(
                f"{text!r} spells {self.label(foreign[0])!r}, which is {kind} and not text. Use speech segments and prompt forms."
            )
        return ids, places

    # -- utterances ----------------------------------------------------------------------------------

    def speech_segment(self, units: Int[Tensor, " unit"], edges: Float[Tensor, " unit_and_one"], words: Sequence[Word] = ()) -> Segment:
        """Speech: units of codebook 0 with their times, and words whose spans count units."""
        return Segment("speech", self.vocabulary.unit_to_id(units), edges, tuple(words))

    def frames_segment(
        self, units: Int[Tensor, "frame codebook"], edges: Float[Tensor, " frame_and_one"], words: Sequence[Word] = ()
    ) -> Segment:
        """Speech of several codebooks, flattened frame by frame, and words whose spans count frames."""
        ids, spread = flattened(self.vocabulary, units, edges)
        books = units.shape[1]
        return Segment(
            "speech", ids, spread, tuple(replace(one, span=Span(one.span.start * books, one.span.stop * books)) for one in words)
        )

    def streams_segment(self, streams: Mapping[int, Sequence[int]], words: Sequence[Word] = ()) -> Segment:
        """Speech of several streams merged by time, and words whose seconds say which positions are theirs; see `merged_by_time`.

        Raises:
            UtteranceError: a word in whose time no unit begins.
        """
        ids, edges = merged_by_time(self.vocabulary, streams)
        return Segment("speech", ids, edges, tuple(replace(one, span=begun_in(edges, one.start_s, one.end_s)) for one in words))

    def ids_of(self, string: str) -> Int[Tensor, " pos"]:
        """Ids of a string as the family's own code writes it: `[Speech][Hu99][Text] and then`. Nothing is put before or after it.

        Tokens of other modalities (`<|pitch_label_2|>`) may stand in it; in a text they may not.

        Raises:
            VocabularyError: a unit that is none, or text the tokenizer cannot spell in ids of text or of other modalities.
        """
        found = pieces(self.vocabulary, string)
        ids = [one for piece in found for one in ([piece] if isinstance(piece, int) else self._encode(piece, ("text", "other"))[0])]
        return torch.tensor(ids, dtype=torch.long)

    def text_segment(self, text: str) -> Segment:
        """Text: its pieces, and its words as stretches between blanks.

        The text is taken as it stands: where words carry a leading space in training, so must the first one here.

        Raises:
            VocabularyError: a model without text, or a text its tokenizer cannot spell in text ids.
        """
        ids, places = self._encode(text)
        words = []
        for match in re.finditer(r"\S+", text):
            inside = [i for i, (start, stop) in enumerate(places) if start < match.end() and stop > match.start()]
            words.append(Word(match.group(), Span(inside[0], inside[-1] + 1), 0.0, 0.0))
        return Segment("text", torch.tensor(ids, dtype=torch.long), None, tuple(words))

    def prompt(
        self,
        segments: Sequence[Segment],
        form: str | None = None,
        then: Modality | None = None,
        audio: Audio | None = None,
        quantiser: str | None = None,
        name: str = "",
    ) -> Utterance:
        """Segments of speech and text as one utterance.

        Args:
            segments: from `speech_segment` and `text_segment`.
            form: a prompt form by name; None is the form of the training sequences.
            then: append the marker of the modality the model should go on in.
            audio: the sound of the speech.
            quantiser: hash of the codebook of the units.
            name: for titles.

        Raises:
            VocabularyError: units of another quantiser.
            UtteranceError: segments that do not run forwards.
        """
        if any(segment.modality == "speech" for segment in segments):
            check_quantiser(self.vocabulary.quantiser, quantiser)
        chosen = self.prompts.form(form)
        laid = lay_out(self.prompts, chosen, segments, then)
        return Utterance(laid.ids, laid.edges, laid.words, self.labels(laid.ids), audio, quantiser, chosen.name, name)

    def speech_prompt(
        self,
        units: Int[Tensor, " unit"],
        edges: Float[Tensor, " unit_and_one"],
        words: Sequence[Word] = (),
        audio: Audio | None = None,
        quantiser: str | None = None,
        form: str | None = None,
        then: Modality | None = None,
        name: str = "",
    ) -> Utterance:
        """An utterance of speech alone; see `prompt`."""
        return self.prompt([self.speech_segment(units, edges, words)], form, then, audio, quantiser, name)

    def text_prompt(self, text: str, form: str | None = None, then: Modality | None = None, name: str = "") -> Utterance:
        """An utterance of text alone; see `prompt`. All its edges are 0 s."""
        return self.prompt([self.text_segment(text)], form, then, name=name)

    def then(self, utterance: Utterance, modality: Modality) -> Utterance:
        """The same utterance, asked to go on in a modality: its marker stands at the end and takes no time.

        Raises:
            UtteranceError: a family without this marker, or an utterance that is closed already.
        """
        form = self.prompts.form(utterance.form or None)
        if form.closed or form.closing:
            raise UtteranceError(f"The form {form.name!r} closes its prompts; to go on in {modality!r} takes an open one.")
        marks = self.prompts.going_on(form, self._last_modality(utterance), modality)
        tokens = torch.cat([utterance.tokens, torch.tensor(marks).to(utterance.tokens)])
        edges = torch.cat([utterance.edges, utterance.edges[-1:].repeat(len(marks))])
        return replace(utterance, tokens=tokens, edges=edges, labels=self.labels(tokens))

    def _last_modality(self, utterance: Utterance) -> Modality:
        """Speech or text, whichever the utterance ends in; ids of other kinds are passed over."""
        speech, text = (self.vocabulary.mask(kind)[utterance.tokens].nonzero() for kind in ("speech", "text"))
        return "speech" if len(speech) and (not len(text) or int(speech[-1]) > int(text[-1])) else "text"

    def check(self, utterance: Utterance) -> Utterance:
        """Refuse an utterance this model cannot read: foreign ids, foreign units, too many positions."""
        self.vocabulary.check_ids(utterance.tokens)
        if self.vocabulary.mask("speech")[utterance.tokens].any():
            check_quantiser(self.vocabulary.quantiser, utterance.quantiser)
        if len(utterance) > self.model.cfg.n_ctx:
            raise UtteranceError(f"The model reads at most {self.model.cfg.n_ctx} positions; this utterance has {len(utterance)}.")
        return utterance

    def logits(self, utterance: Utterance) -> Float[Tensor, "pos d_vocab"]:
        """The model's own output for an utterance."""
        return hooked.logits(self.model, self.check(utterance).tokens[None])[0]

    # -- looking at it -------------------------------------------------------------------------------

    def __repr__(self) -> str:
        config, said = self.model.cfg, self.provenance.get
        return (
            f"SpeechTextModel({said('family', 'undeclared family')} on {said('architecture', '?')}, {config.n_layers} layers, "
            f"d_model {config.d_model}, {config.dtype}, {self.vocabulary!r}, from {said('checkpoint', '?')})"
        )

    def _repr_html_(self) -> str:
        facts = "".join(f"<tr><td>{escape(key)}</td><td>{escape(str(value))}</td></tr>" for key, value in self.provenance.items())
        forms = ", ".join(f"{form.name} ({form.note})" for form in self.prompts.forms)
        return f"<div><b>{escape(repr(self))}</b><table>{facts}</table>prompt forms: {escape(forms)}{self.vocabulary._repr_html_()}</div>"
