"""What `load` gives: views of mapped files, a tokenizer with its added units, prompt forms as slamkit's, a model every TransformerLens tool works on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from torch import nn
from transformer_lens import patching

from slm_interp import hooked
from slm_interp.convert import load
from slm_interp.convert.families.slamkit import opening_ids, unit_tokenizer
from slm_interp.convert.source import open_source
from slm_interp.errors import ConversionError
from slm_interp.model import SpeechTextModel
from tests.convert.reference import hooked_transformer, random_tokens
from tests.replicas import N_UNITS, VARIANTS, WORDS, random_weights, text_tokenizer, write_slamkit
from tests.versions import COPIED, query_weights

TEXT = len(WORDS) + 1
ROWS = TEXT + N_UNITS + 2
TIED = [name for name, raw in VARIANTS.items() if raw.get("tie_word_embeddings")]
EDGES = torch.arange(4, dtype=torch.float64) * 0.04
UNITS = torch.tensor([3, 11, 7])


def interleaved(folder: Path, tokenizer: object | None = None, variant: str = "llama") -> SpeechTextModel:
    write_slamkit(folder, VARIANTS[variant], vocab_size=ROWS)
    return load(folder, tokenizer or text_tokenizer(), n_units=N_UNITS)


def with_bos() -> object:
    """A tokenizer that opens every text with its BOS, as Llama 3's does by a template."""
    tokenizer = text_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="▁a $0", special_tokens=[("▁a", 1)])
    tokenizer.bos_token = "▁a"
    return tokenizer


# -- memory -----------------------------------------------------------------------------------------------


def mapped_ranges(folder: Path) -> list[tuple[int, int]]:
    """Address ranges of this process that are mapped from the folder's shards."""
    lines = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(".safetensors") and str(folder) in line]
    return [tuple(int(edge, 16) for edge in line.split()[0].split("-")) for line in lines]


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_lies_in_a_mapped_file(variant: str, shards: int, tmp_path: Path) -> None:
    """All but those that are zero by definition; nothing was copied but what `COPIED` says."""
    slm = load(write_slamkit(tmp_path, VARIANTS[variant], shards=shards), n_units=N_UNITS)
    ranges = mapped_ranges(tmp_path)
    copied = next((names for start, names in COPIED.items() if variant.startswith(start)), ())
    for name, parameter in hooked.parameters(slm.model).items():
        inside = any(start <= parameter.data_ptr() and parameter.data_ptr() + parameter.element_size() <= stop for start, stop in ranges)
        assert inside or not parameter.any() or name.endswith(copied), name


@pytest.mark.parametrize("variant", TIED)
def test_a_tied_matrix_is_mapped_twice_so_that_writing_to_one_leaves_the_other(variant: str, tmp_path: Path) -> None:
    """TransformerLens folds norms into the unembedding in place; the embedding must not see it."""
    model = load(write_slamkit(tmp_path, VARIANTS[variant]), n_units=N_UNITS).model
    assert torch.equal(model.W_U, model.W_E.T)
    before = model.W_E.clone()
    with torch.no_grad():
        model.W_U.mul_(2)
    assert torch.equal(model.W_E, before)


@pytest.mark.parametrize("dtype", [None, torch.float64])
@pytest.mark.parametrize("variant", VARIANTS)
def test_no_two_parameters_overlap_in_memory(variant: str, dtype: torch.dtype | None, tmp_path: Path) -> None:
    model = load(write_slamkit(tmp_path, VARIANTS[variant]), n_units=N_UNITS, dtype=dtype).model
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.fill_(number)
        assert all(bool((parameter == number).all()) for number, parameter in enumerate(model.parameters()))


def test_writing_to_a_parameter_does_not_reach_the_file(tmp_path: Path) -> None:
    write_slamkit(tmp_path, VARIANTS["llama"])
    before = (tmp_path / "model.safetensors").read_bytes()
    with torch.no_grad():
        for parameter in load(tmp_path, n_units=N_UNITS).model.parameters():
            parameter.zero_()
    assert (tmp_path / "model.safetensors").read_bytes() == before


# -- dtypes and shards ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_dtype_of_the_files_is_kept(dtype: torch.dtype, tmp_path: Path) -> None:
    slm = load(write_slamkit(tmp_path, VARIANTS["llama"], dtype=dtype), n_units=N_UNITS)
    assert slm.model.cfg.dtype == dtype and {parameter.dtype for parameter in slm.model.parameters()} == {dtype}
    logits = hooked_transformer(slm.model, random_tokens(8, N_UNITS + 2)).logits
    assert logits.dtype == dtype and torch.isfinite(logits).all()


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_a_dtype_asked_for_is_given_and_computes_as_if_stored_so(stored: torch.dtype, tmp_path: Path) -> None:
    weights = {name: tensor.to(stored) for name, tensor in random_weights({**VARIANTS["llama"], "vocab_size": N_UNITS + 2}).items()}
    half = write_slamkit(tmp_path / "half", VARIANTS["llama"], weights=weights, dtype=stored)
    full = write_slamkit(tmp_path / "full", VARIANTS["llama"], weights={name: tensor.float() for name, tensor in weights.items()})
    tokens = random_tokens(16, N_UNITS + 2)
    one, other = (load(folder, n_units=N_UNITS, dtype=torch.float32).model for folder in (half, full))
    assert torch.equal(hooked_transformer(one, tokens).logits, hooked_transformer(other, tokens).logits)


@pytest.mark.parametrize("variant", ["llama-mha-tied", "opt", "gpt_neox"])
def test_shards_make_no_difference(variant: str, tmp_path: Path) -> None:
    tokens = random_tokens(16, N_UNITS + 2)
    logits = [
        hooked_transformer(
            load(write_slamkit(tmp_path / str(shards), VARIANTS[variant], shards=shards), n_units=N_UNITS).model, tokens
        ).logits
        for shards in (1, 2, 5)
    ]
    assert torch.equal(logits[0], logits[1]) and torch.equal(logits[0], logits[2])


def test_the_fingerprint_tells_weights_and_configs_apart_and_nothing_else(tmp_path: Path) -> None:
    def fingerprint(name: str, raw: dict, **options: object) -> str:
        return load(write_slamkit(tmp_path / name, raw, **options), n_units=N_UNITS).provenance["fingerprint"]

    raw = {**VARIANTS["llama"], "vocab_size": N_UNITS + 2}
    weights = random_weights(raw)
    first = fingerprint("first", raw, weights=weights)
    assert first == fingerprint("again", raw, weights=weights) == fingerprint("sharded", raw, weights=weights, shards=2)
    assert first != fingerprint("eps", {**raw, "rms_norm_eps": 1e-5}, weights=weights)
    assert first != fingerprint("one number", raw, weights={**weights, "model.norm.weight": weights["model.norm.weight"] + 1e-3})
    assert first != fingerprint("half", raw, weights=weights, dtype=torch.bfloat16)


# -- vocabulary and tokenizer -----------------------------------------------------------------------------


def test_an_interleaved_vocabulary_is_text_then_units_then_the_two_markers(tmp_path: Path) -> None:
    slm = interleaved(tmp_path)
    assert [(one.kind, one.start, one.stop) for one in slm.vocabulary.ranges] == [
        ("text", 0, TEXT),
        ("speech", TEXT, TEXT + N_UNITS),
        ("marker", ROWS - 2, ROWS - 1),
        ("marker", ROWS - 1, ROWS),
    ]
    assert slm.vocabulary.marker("<speech>") == ROWS - 2 and slm.vocabulary.marker("<text>") == ROWS - 1


def test_the_tokenizer_keeps_its_added_units_and_transformer_lens_uses_it(tmp_path: Path) -> None:
    """`HookedTransformer(cfg, tokenizer)` would load it anew and lose them."""
    slm = interleaved(tmp_path)
    string = "<speech><Un3><Un11><text> the capital<speech><Un19>"
    ids = [ROWS - 2, TEXT + 3, TEXT + 11, ROWS - 1, 2, 3, ROWS - 2, TEXT + 19]
    assert slm.model.tokenizer is slm.tokenizer and len(slm.tokenizer) == ROWS
    assert slm.tokenizer(string)["input_ids"] == ids
    assert slm.model.to_tokens(string)[0].tolist() == ids
    assert slm.model.to_tokens(string, prepend_bos=False)[0].tolist() == ids
    assert slm.model.to_single_token("<Un7>") == TEXT + 7
    assert "<Un11>" in slm.model.to_string(torch.tensor(ids)) and "capital" in slm.model.to_string(torch.tensor(ids))
    assert slm.model.to_str_tokens(torch.tensor(ids))[:2] == ["<speech>", "<Un3>"]


def test_a_tokenizer_that_already_has_the_units_is_taken_as_it_is(tmp_path: Path) -> None:
    first = interleaved(tmp_path / "one", text_tokenizer())
    assert len(first.tokenizer) == ROWS
    second = load(tmp_path / "one", first.tokenizer, n_units=N_UNITS)
    assert len(second.tokenizer) == ROWS
    assert second.vocabulary == first.vocabulary


def test_a_tokenizer_with_the_units_elsewhere_is_refused(tmp_path: Path) -> None:
    tokenizer = text_tokenizer()
    tokenizer.add_tokens(["<Un5>", "<Un0>"])
    write_slamkit(tmp_path, VARIANTS["llama"], vocab_size=ROWS + 1)
    with pytest.raises(ValueError, match="Id 17 is declared as '<Un5>'; the tokenizer calls it '<Un6>'"):
        load(tmp_path, tokenizer, n_units=N_UNITS)


def test_a_tokenizer_may_be_a_folder_or_lie_beside_the_weights(tmp_path: Path) -> None:
    interleaved(tmp_path / "model")
    text_tokenizer().save_pretrained(tmp_path / "tokenizer")
    assert load(tmp_path / "model", str(tmp_path / "tokenizer"), n_units=N_UNITS).vocabulary.size == ROWS
    assert load(tmp_path / "model", tmp_path / "tokenizer", n_units=N_UNITS).vocabulary.size == ROWS
    text_tokenizer().save_pretrained(tmp_path / "model")
    beside = load(tmp_path / "model", n_units=N_UNITS)
    assert beside.model.to_tokens("<Un3>")[0].tolist() == [TEXT + 3]


def test_a_declared_quantiser_is_what_units_are_checked_against(tmp_path: Path) -> None:
    write_slamkit(tmp_path, VARIANTS["llama"])
    slm = load(tmp_path, n_units=N_UNITS, quantiser="abc")
    assert slm.vocabulary.quantiser == "abc"
    with pytest.raises(ValueError, match="abc"):
        slm.speech_prompt(UNITS, EDGES)
    assert len(slm.speech_prompt(UNITS, EDGES, quantiser="abc")) == 1 + len(UNITS)


# -- prompt forms, against slamkit's own test vectors -----------------------------------------------------


def test_slamkits_tokenizer_of_units_gives_its_test_vector() -> None:
    """`<Un3><Un49><Un7>` is 1, 5, 51, 9, 1; the last `<S>` is dropped for a prompt."""
    assert unit_tokenizer(500)("<Un3><Un49><Un7>")["input_ids"] == [1, 5, 51, 9, 1]
    assert len(unit_tokenizer(500)) == 502


def test_a_speech_only_prompt_is_opened_closed_or_bare_as_slamkit_lays_it_out(tmp_path: Path) -> None:
    raw = {**VARIANTS["llama"], "num_hidden_layers": 1}
    slm = load(write_slamkit(tmp_path, raw, vocab_size=502))
    units = torch.tensor([3, 49, 7])
    forms = {form: slm.speech_prompt(units, EDGES, form=form).tokens.tolist() for form in ("opened", "closed", "bare")}
    assert forms == {"opened": [1, 5, 51, 9], "closed": [1, 5, 51, 9, 1], "bare": [5, 51, 9]}
    assert forms["closed"] == slm.model.tokenizer("<Un3><Un49><Un7>")["input_ids"]
    assert [form.name for form in slm.prompts.forms] == ["opened", "closed", "bare"] and slm.speech_prompt(units, EDGES).form == "opened"


def test_an_interleaved_prompt_is_marked_or_bare_as_slamkit_lays_it_out(tmp_path: Path) -> None:
    slm = interleaved(tmp_path)
    speech, text = slm.speech_segment(UNITS, EDGES), slm.text_segment(" the capital")
    units = [TEXT + 3, TEXT + 11, TEXT + 7]
    assert slm.prompt([speech]).tokens.tolist() == [ROWS - 2, *units]
    assert slm.prompt([speech], form="bare").tokens.tolist() == units
    assert slm.prompt([speech, text]).tokens.tolist() == [ROWS - 2, *units, ROWS - 1, 2, 3]
    assert slm.prompt([text, speech]).tokens.tolist() == [ROWS - 1, 2, 3, ROWS - 2, *units]
    assert slm.prompt([text, text]).tokens.tolist() == [ROWS - 1, 2, 3, 2, 3], "no marker between neighbours of one modality"
    assert slm.prompt([speech], then="speech").tokens.tolist() == [ROWS - 2, *units, ROWS - 2], (
        "build_prompt appends the marker even after its own modality"
    )
    string = "<speech><Un3><Un11><Un7><text> the capital"
    assert slm.prompt([speech, text]).tokens.tolist() == slm.tokenizer(string)["input_ids"]


def test_a_tokenizer_that_prepends_a_bos_opens_every_prompt_with_it(tmp_path: Path) -> None:
    """Llama 3's does, Qwen's does not; and the marker's id is never taken from an encoding, whose first id is the BOS."""
    slm = interleaved(tmp_path, with_bos())
    assert opening_ids(with_bos()) == (1,) and opening_ids(text_tokenizer()) == ()
    assert slm.prompt([slm.speech_segment(UNITS, EDGES)]).tokens.tolist() == [1, ROWS - 2, TEXT + 3, TEXT + 11, TEXT + 7]
    assert slm.prompt([slm.speech_segment(UNITS, EDGES)], form="bare").tokens.tolist() == [1, TEXT + 3, TEXT + 11, TEXT + 7]
    assert slm.text_prompt(" the").tokens.tolist() == [1, ROWS - 1, 2]
    assert slm.tokenizer("<speech><Un3>")["input_ids"] == [1, ROWS - 2, TEXT + 3]
    assert slm.model.to_tokens("<speech><Un3>", prepend_bos=True)[0].tolist() == [1, ROWS - 2, TEXT + 3]
    assert slm.model.to_tokens("<speech><Un3>", prepend_bos=False)[0].tolist() == [ROWS - 2, TEXT + 3]


# -- TransformerLens's own tools --------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_cache_hooks_and_gradients_work(variant: str, tmp_path: Path) -> None:
    model = load(write_slamkit(tmp_path, VARIANTS[variant]), n_units=N_UNITS).model
    tokens = random_tokens(10, N_UNITS + 2)[None]
    plain, cache = model.run_with_cache(tokens)
    stack = cache.decompose_resid(layer=-1, mode="attn")
    assert torch.isfinite(stack).all() and cache["blocks.0.attn.hook_pattern"].shape == (1, model.cfg.n_heads, 10, 10)
    zeroed = model.run_with_hooks(tokens, fwd_hooks=[("blocks.1.attn.hook_z", lambda z, hook: torch.zeros_like(z))])
    assert not torch.allclose(zeroed, plain)
    model(tokens, return_type="loss").backward()
    weights = query_weights(model, 0)
    assert isinstance(weights, nn.Parameter) and weights.grad is not None and weights.grad.any()


@pytest.mark.parametrize("variant", ["llama-mha-tied", "qwen3", "opt", "gpt_neox"])
def test_generation_with_a_cache_equals_the_greedy_continuation(variant: str, tmp_path: Path) -> None:
    model = load(write_slamkit(tmp_path, VARIANTS[variant]), n_units=N_UNITS).model
    tokens = random_tokens(6, N_UNITS + 2)[None]
    made = model.generate(tokens, max_new_tokens=4, do_sample=False, stop_at_eos=False, verbose=False, prepend_bos=False)
    expected = tokens
    for _ in range(4):
        expected = torch.cat([expected, model(expected)[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(made, expected)


@pytest.mark.parametrize("variant", ["llama", "gpt_neox-serial-tied"])
def test_activation_patching_of_transformer_lens_works_and_recovers_everything_at_the_last_position(variant: str, tmp_path: Path) -> None:
    model = load(write_slamkit(tmp_path, VARIANTS[variant]), n_units=N_UNITS).model
    clean, corrupted = random_tokens(6, N_UNITS + 2, 1)[None], random_tokens(6, N_UNITS + 2, 2)[None]
    logits, cache = model.run_with_cache(clean)
    with torch.no_grad():
        patched = patching.get_act_patch_resid_pre(model, corrupted, cache, lambda out: (out[0, -1] - logits[0, -1]).abs().max())
    assert patched.shape == (model.cfg.n_layers, 6)
    corrupted[0, :-1] = clean[0, :-1]
    with torch.no_grad():
        healed = patching.get_act_patch_resid_pre(model, corrupted, cache, lambda out: (out[0, -1] - logits[0, -1]).abs().max())
    assert healed[0, -1] < 1e-4 * logits.std()


def test_the_config_of_the_model_says_what_the_checkpoint_says(tmp_path: Path) -> None:
    slm = load(write_slamkit(tmp_path, VARIANTS["llama-llama3-rope"]), n_units=N_UNITS)
    cfg, raw = slm.model.cfg, VARIANTS["llama-llama3-rope"]
    assert (cfg.d_model, cfg.n_layers, cfg.n_heads, cfg.n_key_value_heads, cfg.d_mlp) == (24, 3, 4, 2, 40)
    assert (cfg.rotary_base, cfg.NTK_by_parts_factor, cfg.NTK_original_ctx_len) == (
        500_000.0,
        32.0,
        raw["rope_parameters"]["original_max_position_embeddings"],
    )
    assert cfg.n_ctx == 4096 and cfg.default_prepend_bos is False
    assert slm.provenance["family"] == "slamkit" and slm.provenance["architecture"] == "llama"
    assert re.fullmatch(r"[0-9a-f]{16}", slm.provenance["fingerprint"])


def test_opening_a_source_reads_no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_slamkit(tmp_path, VARIANTS["llama"])
    monkeypatch.setattr("slm_interp.convert.checkpoint.Checkpoint.tensor", lambda *arguments, **options: pytest.fail("a weight was read"))
    assert open_source(tmp_path).rows == N_UNITS + 2
    with pytest.raises(ConversionError):
        load(tmp_path)
