"""What one measured process does: import, load, run 64 positions, read them; a line of JSON after each.

python -m tests.benchmarks.full_size.ways WAY DIR
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

POSITIONS = 64
# TransformerLens's own conversion, by the base model's type. The others it does not have.
CONVERSIONS = {"llama": "convert_llama_weights", "qwen2": "convert_qwen2_weights"}


def say(**facts: Any) -> None:
    """One line to the parent."""
    print(json.dumps(facts), flush=True)


@contextmanager
def timed(phase: str) -> Iterator[None]:
    """Say when it is over, and how long it took."""
    start = time.perf_counter()
    yield
    say(phase=phase, seconds=time.perf_counter() - start)


def base_config(folder: Path) -> dict[str, Any]:
    """Of the model that Hugging Face knows."""
    config = json.loads((folder / "config.json").read_text())
    return config.get("base_config", config)


def tokens(rows: int) -> torch.Tensor:
    """Random ids."""
    return torch.randint(rows, (1, POSITIONS), generator=torch.Generator().manual_seed(0))


def ours(folder: Path, dtype: torch.dtype | None = None) -> None:
    """`si.load`, a forward, a reading of units by the logit lens; and the tokenizer once more, alone: a part of what `load` takes."""
    import slm_interp as si
    from slm_interp.convert.text_tokenizer import text_tokenizer_of

    say(phase="imported")
    carried = folder / "text_tokenizer"
    with timed("loaded"):
        slm = si.load(folder, carried if carried.exists() else None, dtype=dtype)
    with timed("forward"):
        hooked_forward(slm.model)
    utterance = of_units(slm)
    with timed("read"):
        reading = si.LogitLens(slm).read(utterance)
    assert reading.dataset.sizes["pos"] == POSITIONS
    with timed("tokenizer"):
        text_tokenizer_of(folder, carried if carried.exists() else None)


def of_units(slm: Any) -> Any:
    """64 positions of speech, in the plainest prompt form."""
    form = slm.prompts.forms[-1].name

    def made(count: int) -> Any:
        return slm.speech_prompt(torch.arange(count), torch.arange(count + 1, dtype=torch.float64) * 0.04, form=form)

    return made(2 * POSITIONS - len(made(POSITIONS)))


def hooked_forward(model: Any) -> None:
    """Every `resid_post` kept, logits at the end."""
    kept = []
    with torch.no_grad():
        model.run_with_hooks(
            tokens(model.cfg.d_vocab),
            fwd_hooks=[(lambda name: name.endswith("resid_post"), lambda resid, hook: kept.append(resid))],
            return_type="logits",
        )


def from_pretrained(folder: Path) -> Any:
    """The base model through transformers; the prefix of slamkit's wrapper is taken off by its own mapping."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**base_config(folder))
    return AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=torch.bfloat16, key_mapping={r"^lm\.": ""})


def hugging_face(folder: Path) -> None:
    """transformers alone, a forward with every hidden state."""
    from transformers import LlamaForCausalLM, Qwen2ForCausalLM  # noqa: F401  imported before the clock starts, as in the other ways

    say(phase="imported")
    with timed("loaded"):
        model = from_pretrained(folder)
    with timed("forward"), torch.no_grad():
        model(tokens(model.config.vocab_size), output_hidden_states=True, use_cache=False)


def transformer_lens(folder: Path) -> None:
    """transformers, then what `HookedTransformer.from_pretrained` does with its model, nothing folded; a forward."""
    from transformer_lens import HookedTransformer
    from transformer_lens.config.hooked_transformer_config import HookedTransformerConfig
    from transformer_lens.pretrained import weight_conversions

    from slm_interp.convert.source import open_source

    conversion = getattr(weight_conversions, CONVERSIONS[base_config(folder)["model_type"]])
    say(phase="imported")
    fields = {**open_source(folder).fields, "dtype": torch.bfloat16, "device": "cpu", "init_weights": False, "default_prepend_bos": False}
    unfolded = dict.fromkeys(("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases"), False)
    with timed("loaded"):
        source = from_pretrained(folder)
        config = HookedTransformerConfig(**fields)
        state = conversion(source, config)
        model = HookedTransformer(config)
        model.load_and_process_state_dict(state, **unfolded)
        del source, state
    with timed("forward"):
        hooked_forward(model)


WAYS: Mapping[str, tuple[str, Any]] = {
    "slm_interp": ("si.load: every parameter a view of the mapped file", ours),
    "slm_interp_float32": ("si.load(dtype=torch.float32): every parameter converted on its own", partial(ours, dtype=torch.float32)),
    "transformers": ("from_pretrained of the base model, bfloat16", hugging_face),
    "transformer_lens": (
        "from_pretrained, then TransformerLens's own weight conversion and load_and_process_state_dict, nothing folded",
        transformer_lens,
    ),
}


def lacking(way: str, folder: Path) -> str | None:
    """Why a way does not lead to this checkpoint, or None."""
    kind = base_config(folder)["model_type"]
    if way in ("transformers", "transformer_lens") and kind not in CONVERSIONS:
        return f"not possible: no class of transformers and no conversion of TransformerLens reads model type {kind!r}"
    return None


if __name__ == "__main__":
    WAYS[sys.argv[1]][1](Path(sys.argv[2]))
