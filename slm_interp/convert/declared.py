"""From a declaration to a family: ids found in the tokenizer, ranges that tile the embedding, prompt forms of ids.

Every row of the embedding is a unit, a marker or of another modality if it is declared so; else text if the tokenizer emits it;
else dead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal

from slm_interp.convert.declaration import Declaration, Form, UnitRange, check_units
from slm_interp.convert.family import Family, Reading, TokenIds
from slm_interp.errors import ConversionError
from slm_interp.prompt import PromptForm, PromptFormat
from slm_interp.vocabulary import IdRange, JointVocabulary, tiled


def declared_family(declaration: Declaration) -> Family:
    """The family a declaration describes."""
    return Family(
        declaration.name,
        declaration.licence,
        said_units(declaration),
        tuple(form.name for form in declaration.forms),
        partial(_recognises, declaration),
        partial(_unwrap, declaration),
        partial(_read, declaration),
    )


def said_units(declaration: Declaration) -> tuple[str, ...]:
    """How many units of which spelling: `501 [Hu{}]`, `8 x 2048 {:c}`."""
    counted = Counter((one.count, one.template) for one in declaration.units)
    return tuple(f"{books} x {count} {template}" if books > 1 else f"{count} {template}" for (count, template), books in counted.items())


def _recognises(declaration: Declaration, config: Mapping[str, Any], tokens: Callable[[], TokenIds]) -> bool:
    told = declaration.recognised
    if config.get("model_type") not in told.model_types or not all(key in config for key in told.keys):
        return False
    return not (told.tokens or told.without) or (
        all(token in tokens() for token in told.tokens) and not any(token in tokens() for token in told.without)
    )


def _unwrap(declaration: Declaration, config: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    own = set(declaration.recognised.keys)
    return {key: value for key, value in config.items() if key not in own}, ""


def _read(declaration: Declaration, reading: Reading) -> tuple[JointVocabulary, PromptFormat, Any]:
    """Vocabulary, prompt forms and tokenizer.

    Raises:
        ConversionError: tokens the tokenizer lacks, ids that are not in step, or rows that are fewer than the ids.
    """
    known: TokenIds = {} if reading.tokenizer is None else reading.tokenizer.get_vocab()
    if not known and declaration.text is None and (declaration.frames or any(one.start is None for one in declaration.units)):
        raise ConversionError(
            f"Family {declaration.name!r} finds its ids in the checkpoint's tokenizer, and there is none in the folder; "
            "pass text_tokenizer= (a folder, a hub id or an object)."
        )
    ranges = [_units(declaration, reading, known, one) for one in declaration.units]
    ranges += [IdRange("marker", one, one + 1, template=token) for token, one in _frames(declaration, known).items()]
    past = next((one for one in ranges if one.ids[-1] >= reading.rows), None)
    if past is not None:
        raise ConversionError(
            f"Family {declaration.name!r} has {past.spelled(past.ids[-1])!r} as id {past.ids[-1]}; the embedding has {reading.rows} rows. "
            "Is the tokenizer another model's, the vocabulary cut short, or the number of units another (n_units=)?"
        )
    ranges += _text(declaration, reading, known, ranges)
    vocabulary = tiled(ranges, reading.rows, reading.quantiser)
    if reading.tokenizer is not None:
        vocabulary.check_tokenizer(reading.tokenizer)
    return vocabulary, _prompts(declaration, vocabulary, known, reading.tokenizer), reading.tokenizer


def _units(declaration: Declaration, reading: Reading, known: TokenIds, units: UnitRange) -> IdRange:
    if reading.n_units is not None:
        units = replace(units, count=reading.n_units)
        check_units(units)
    count = units.count
    if count > reading.rows:
        raise ConversionError(
            f"Family {declaration.name!r} has {count} units in codebook {units.codebook}; the embedding has {reading.rows} rows. "
            "Is it another family (family=), or another number of units (n_units=)?"
        )
    spelled = [units.template.format(units.first + unit) for unit in range(count)]
    ids = [known[token] for token in spelled if token in known]
    if ids:
        start, step = _in_step(declaration, known, spelled, ids)
        further = units.template.format(units.first + count)
        if known.get(further) == start + step * count and not _claimed(declaration, further):
            raise ConversionError(
                f"Family {declaration.name!r} has {count} units, {spelled[0]!r} to {spelled[-1]!r}; this tokenizer goes on with {further!r}. "
                "Is it another model's, or another number of units (n_units=)?"
            )
    elif units.start is None:
        raise ConversionError(
            f"Family {declaration.name!r} needs the token {spelled[0]!r}, which this tokenizer of {len(known)} tokens lacks. "
            "Is it another model's tokenizer, or another family (family=)?"
        )
    else:
        start, step = _start(declaration, reading, units.start), units.step
    stop = start + step * (count - 1) + 1
    return IdRange("speech", start, stop, step, units.codebook, units.template, units.first, units.rate_hz, units.merged)


def _claimed(declaration: Declaration, token: str) -> bool:
    """Whether another codebook begins with this token, as where all of them are numbered through."""
    firsts = [one.template.format(one.first) for one in declaration.units]
    return token in firsts or token in declaration.frames or token in declaration.also


def _in_step(declaration: Declaration, known: TokenIds, spelled: list[str], ids: list[int]) -> tuple[int, int]:
    """First id and step of tokens that the tokenizer knows, all of them and evenly apart."""
    if len(ids) != len(spelled):
        lacking = next(token for token in spelled if token not in known)
        raise ConversionError(
            f"Family {declaration.name!r} needs {len(spelled)} tokens {spelled[0]!r} to {spelled[-1]!r}; this tokenizer has {len(ids)} of them and "
            f"lacks {lacking!r}. Is the vocabulary cut short, or the number of units another (n_units=)?"
        )
    step = ids[1] - ids[0] if len(ids) > 1 else 1
    wrong = next((place for place, one in enumerate(ids) if step < 1 or one != ids[0] + step * place), None)
    if wrong is not None:
        raise ConversionError(f"The ids of {spelled[0]!r} and those after it should rise evenly; {spelled[wrong]!r} is id {ids[wrong]}.")
    return ids[0], step


def _start(declaration: Declaration, reading: Reading, start: int | str) -> int:
    if isinstance(start, int):
        return start
    value = reading.config.get(start)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ConversionError(f"Family {declaration.name!r} reads the first unit's id from config key {start!r}; it is {value!r}.")
    return value


def _frames(declaration: Declaration, known: TokenIds) -> dict[str, int]:
    """Ids of the markers, by spelling."""
    found: dict[str, int] = {}
    also = [token for token in declaration.also if token in known or token in declaration.ids]
    for token in dict.fromkeys([*declaration.frames, *also]):
        stated = declaration.ids.get(token)
        identifier = known.get(token, stated)
        if identifier is None:
            raise ConversionError(
                f"Family {declaration.name!r} needs the token {token!r}, which this tokenizer of {len(known)} tokens lacks. "
                "Is it another model's tokenizer, or another family (family=)?"
            )
        if token in known and stated not in (None, known[token]):
            raise ConversionError(f"The declaration says {token!r} is id {stated}; the tokenizer says {known[token]}.")
        found[token] = identifier
    return found


def _text(declaration: Declaration, reading: Reading, known: TokenIds, taken: Iterable[IdRange]) -> list[IdRange]:
    """Ids of text, and of other modalities: what the tokenizer emits and nobody declared; without one, what the declaration says."""
    if not known:
        return [] if declaration.text is None else [IdRange("text", declaration.text[0], declaration.text[1])]
    declared = {identifier for one in taken for identifier in one.ids}
    kinds: dict[int, Literal["other", "text"]] = {
        identifier: "other" if declaration.other and token.startswith(declaration.other) else "text"
        for token, identifier in known.items()
        if identifier not in declared and identifier < reading.rows
    }
    ids = sorted(kinds)
    starts = [one for one in ids if kinds.get(one - 1) != kinds[one]]
    stops = [one + 1 for one in ids if kinds.get(one + 1) != kinds[one]]
    return [IdRange(kinds[start], start, stop) for start, stop in zip(starts, stops, strict=True)]


def _prompts(declaration: Declaration, vocabulary: JointVocabulary, known: TokenIds, tokenizer: Any | None) -> PromptFormat:
    markers = {one.template: one.start for one in vocabulary.ranges if one.kind == "marker" and one.template is not None}
    ids = {**known, **markers}
    turns = declaration.alternation
    return PromptFormat(
        tuple(_form(one, ids, tokenizer) for one in declaration.forms),
        {modality: ids[token] for modality, token in declaration.markers.items()},
        {modality: ids[token] for modality, token in declaration.closers.items()},
        declaration.repeated,
        None if turns is None else (turns[0], turns[1]),
    )


def _form(form: Form, ids: TokenIds, tokenizer: Any | None) -> PromptForm:
    opening, between, closing = (
        tuple(one for piece in pieces for one in _spelled(piece, ids, tokenizer)) for pieces in (form.opening, form.between, form.closing)
    )
    return PromptForm(form.name, opening, form.marked, form.closed, between, closing, form.note)


def _spelled(piece: str, ids: TokenIds, tokenizer: Any | None) -> tuple[int, ...]:
    """Ids of a token, or of a text that the tokenizer cuts into tokens."""
    if piece in ids:
        return (ids[piece],)
    made = [] if tokenizer is None else tokenizer(piece, add_special_tokens=False)["input_ids"]
    if not made or tokenizer.unk_token_id in made:  # type: ignore[union-attr]
        raise ConversionError(f"A prompt form opens or closes with {piece!r}, which the tokenizer cannot spell.")
    return tuple(made)
