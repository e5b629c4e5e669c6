"""`inspect`: what a checkpoint is and what will become of it, without reading a weight."""

from __future__ import annotations

import os
from dataclasses import dataclass
from math import prod
from typing import Any

from slm_interp import hooked
from slm_interp.convert.checkpoint import Checkpoint
from slm_interp.convert.families import Named
from slm_interp.convert.rules import Drop, Zero, expanded
from slm_interp.convert.source import Source, accept, identify, vocabulary_of
from slm_interp.errors import ConversionError
from slm_interp.vocabulary import JointVocabulary

SIZES = (
    "n_layers",
    "d_model",
    "n_heads",
    "n_key_value_heads",
    "d_head",
    "d_mlp",
    "d_vocab",
    "n_ctx",
    "act_fn",
    "eps",
    "rotary_base",
    "rotary_dim",
)


@dataclass(frozen=True)
class Inspection:
    """What `inspect` found.

    Args:
        facts: family, architecture, sizes, storage, licence.
        vocabulary: the id ranges, or None when the text tokenizer is missing.
        notes: what is dropped, what is zero by definition, and what keeps the checkpoint from loading.
    """

    facts: dict[str, Any]
    vocabulary: JointVocabulary | None
    notes: tuple[str, ...]

    def __str__(self) -> str:
        import pandas as pd

        facts = "\n".join(f"{key:20} {value}" for key, value in self.facts.items())
        ranges = pd.DataFrame(self.vocabulary.table()).to_string(index=False, na_rep="") if self.vocabulary else "unknown"
        notes = "\n".join(f"- {note}" for note in self.notes)
        return f"{facts}\n\nvocabulary\n{ranges}\n\nnotes\n{notes}"

    def _repr_html_(self) -> str:
        import pandas as pd

        table = pd.DataFrame(self.facts.items(), columns=["", "value"]).to_html(index=False)
        return f"{table}{self.vocabulary._repr_html_() if self.vocabulary else ''}<ul>{''.join(f'<li>{note}</li>' for note in self.notes)}</ul>"


def inspect(
    path: str | os.PathLike[str], text_tokenizer: Any | None = None, *, family: Named | None = None, n_units: int | None = None
) -> Inspection:
    """Say what a checkpoint is, reading only headers.

    Args:
        path: as for `load`.
        text_tokenizer: as for `load`.
        family: as for `load`.
        n_units: as for `load`.

    Raises:
        CheckpointError: a damaged folder. ConversionError: a checkpoint of no known family.
    """
    identified = identify(path, text_tokenizer, family)
    try:
        source = accept(identified)
    except ConversionError as error:
        facts = {
            "folder": identified.checkpoint.folder,
            "family": identified.family.name,
            "architecture": identified.raw.get("model_type"),
            **_storage(identified.checkpoint),
            "licence": identified.family.licence,
        }
        return Inspection(facts, None, (f"cannot be loaded: {error}",))
    notes = [*_rule_notes(source), *_expression_notes(source)]
    facts = _facts(source)
    try:
        vocabulary, prompts = vocabulary_of(source, n_units, None)[:2]
    except ConversionError as error:
        return Inspection(facts, None, (*notes, f"vocabulary: {error}"))
    facts["prompt forms"] = "; ".join(f"{form.name} ({form.note})" for form in prompts.forms)
    return Inspection(facts, vocabulary, tuple(notes))


def _facts(source: Source) -> dict[str, Any]:
    return {
        "folder": source.checkpoint.folder,
        "family": source.family.name,
        "architecture": source.architecture.name,
        **{key: source.fields[key] for key in SIZES if source.fields.get(key) is not None},
        "head": "tied to the embedding" if source.fields["tie_word_embeddings"] else "its own matrix",
        **_storage(source.checkpoint),
        "licence": source.family.licence,
    }


def _storage(checkpoint: Checkpoint) -> dict[str, str]:
    return {
        "parameters": f"{sum(prod(shape) for shape in checkpoint.shapes.values()):,}",
        "stored as": ", ".join(checkpoint.stored_as),
        "size": f"{checkpoint.n_bytes / 1e6:,.1f} MB in {len(checkpoint.files)} file(s)",
    }


def _rule_notes(source: Source) -> list[str]:
    rules = list(expanded(source.rules, source.fields["n_layers"]))
    dropped = [rule for rule in rules if isinstance(rule, Drop) and rule.source in source.shapes]
    zeros = sorted({rule.target.split(".")[-1] for rule in rules if isinstance(rule, Zero)})
    named = {name for rule in rules if not isinstance(rule, Zero) for name in (rule.source,)}
    notes = [f"dropped: {rule.source} ({rule.reason})" for rule in dropped]
    notes += [f"no rule for {name} {shape}: loading will be refused" for name, shape in source.shapes.items() if name not in named]
    return [*notes, f"zero by definition: {', '.join(zeros)}"]


def _expression_notes(source: Source) -> list[str]:
    """What TransformerLens does in its own way."""
    notes = hooked.notes(source.fields)
    if source.fields.get("positional_embedding_type") == "rotary":
        notes.append("rotary tables are computed from the config, not read")
    if source.fields.get("parallel_attn_mlp"):
        notes.append("attention and MLP run in parallel: there is no resid_mid")
    return notes
