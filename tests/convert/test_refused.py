"""Models a HookedTransformer cannot express are refused with their reason, by whatever name they go; all others are left alone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from slm_interp.convert import inspect, load, verify
from slm_interp.convert.refused import REFUSALS, Refusal, refuse_inexpressible
from slm_interp.errors import ConversionError
from tests.family_replicas import REPLICAS, chatglm
from tests.replicas import N_UNITS, VARIANTS, random_weights, wrapper, write_slamkit

LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 24, "vocab_size": 22}
QWEN2 = {**LLAMA, "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}

# What the configs of these models say, as far as it tells them from others.
CONFIGS: list[tuple[str, dict[str, Any]]] = [
    ("Moshi", {"model_type": "moshi", "architectures": ["MoshiForConditionalGeneration"], "num_codebooks": 8, "depth_decoder_config": {}}),
    ("Moshi", {"model_type": "kyutai_speech_to_text", "architectures": ["KyutaiSpeechToTextForConditionalGeneration"]}),
    ("CSM", {"model_type": "csm", "architectures": ["CsmForConditionalGeneration"], "num_codebooks": 32, "codec_config": {}}),
    ("Higgs Audio", {"model_type": "higgs_audio", "architectures": ["HiggsAudioModel"], "audio_num_codebooks": 8, "text_config": LLAMA}),
    ("Voila", {**LLAMA, "architectures": ["VoilaModel"], "num_codebooks": 4, "min_audio_token_id": 128_257}),
    ("Voila", {**LLAMA, "min_audio_token_id": 128_257}),
    ("Baichuan-Audio", {"model_type": "omni", "architectures": ["OmniForCausalLM"], "audio_config": {"d_model": 1280}}),
    ("TASTE", {"model_type": "taste", "architectures": ["TasteForCausalLM"]}),
    ("TASTE", {"model_type": "taslm"}),
    ("Kimi-Audio", {"model_type": "kimi_audio", "architectures": ["MoonshotKimiaForCausalLM"], "kimia_mimo_layers": 6}),
    ("Kimi-Audio", {**QWEN2, "kimia_mimo_layers": 6}),
    ("MiMo-Audio", {**QWEN2, "architectures": ["MiMoAudioModel"]}),
    ("MiMo-Audio", {**QWEN2, "speech_zeroemb_idx": "1024-1024-128", "delay_pattern": "0-1-2", "input_local_layers": 6}),
    ("VITA-Audio", {"model_type": "qwen2_mtp_sensevoice", "architectures": ["Qwen2MTPSenseVoiceForCausalLM"]}),
    ("VITA-Audio", {**QWEN2, "num_nextn_predict_layers": 10}),
    ("Step-Audio", {"model_type": "step1", "architectures": ["Step1ForCausalLM"]}),
    ("Step-Audio 2", {"model_type": "step_audio_2", "architectures": ["StepAudio2ForCausalLM"], "audio_encoder_config": {"n_mels": 128}}),
    ("LLaMA-Omni", {"model_type": "omni_speech2s_llama", "architectures": ["OmniSpeech2SLlamaForCausalLM"]}),
    ("LLaMA-Omni", {**LLAMA, "speech_generator_type": "ctc"}),
    ("LLaMA-Omni", {**QWEN2, "model_type": "omni2_speech2s_qwen2", "speech_generator": {"model_type": "qwen2"}}),
    ("Qwen Omni", {"model_type": "qwen2_5_omni", "architectures": ["Qwen2_5OmniModel"], "thinker_config": {"a": 1}, "talker_config": {}}),
    ("Qwen Omni", {"model_type": "qwen3_omni_moe", "architectures": ["Qwen3OmniMoeForConditionalGeneration"]}),
    ("Hierarchical SODA", {"model_type": "soda_hier", "num_codebooks": 8}),
    ("Flow-SLM", {**LLAMA, "architectures": ["FlowSLMForCausalLM"]}),
    ("A model of audio features", {"model_type": "qwen2_audio", "architectures": ["Qwen2AudioForConditionalGeneration"]}),
    ("A model of audio features", {"model_type": "ultravox", "audio_model_id": "openai/whisper-medium"}),
    ("A model of audio features", {**LLAMA, "audio_config": {"model_type": "whisper"}}),
    ("A model of audio features", {**QWEN2, "mm_audio_tower": "whisper"}),
    ("A model of several codebooks a position", {**LLAMA, "num_codebooks": 8}),
    ("A model of several codebooks a position", {"model_type": "musicgen", "n_q": 8, "dep_q": 8}),
]
REASONS = {one.name: one for one in REFUSALS}


def sentence(refusal: Refusal) -> str:
    return re.escape(f"{refusal.name} cannot be a HookedTransformer: {refusal.reason}.")


def test_every_refusal_has_a_config_here():
    assert {name for name, _ in CONFIGS} == set(REASONS)


@pytest.mark.parametrize(("name", "config"), CONFIGS, ids=[f"{i}-{name}" for i, (name, _) in enumerate(CONFIGS)])
def test_it_is_refused_with_its_reason_whoever_asks(name: str, config: dict[str, Any], folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(config))
    for function in (load, inspect, verify):
        with pytest.raises(ConversionError, match=f"^{sentence(REASONS[name])}") as caught:
            function(folder)
        assert str(caught.value).endswith("."), "a whole sentence"


@pytest.mark.parametrize("family", ["spiritlm", "slamkit", "twist"])
def test_a_family_forced_on_it_does_not_help(family: str, folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({**QWEN2, "speech_zeroemb_idx": "1024-1024-128"}))
    with pytest.raises(ConversionError, match=sentence(REASONS["MiMo-Audio"])):
        load(folder, family=family)


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda one: one.name)
def test_each_name_and_key_of_the_table_tells_by_itself(refusal: Refusal) -> None:
    told: list[dict[str, Any]] = [{"model_type": one} for one in refusal.model_types]
    told += [{**LLAMA, "architectures": [f"{one}Model"]} for one in refusal.architectures]
    told += [{**LLAMA, key: value} for key in refusal.keys for value in (3, "0-1", {"a": 1})]
    assert told
    for config in told:
        assert refusal.fits(config)
        with pytest.raises(ConversionError, match="cannot be a HookedTransformer: "):
            refuse_inexpressible(config)


@pytest.mark.parametrize("value", [None, {}, [], 0, False])
def test_an_empty_key_tells_nothing(value: object) -> None:
    for key in {key for one in REFUSALS for key in one.keys}:
        refuse_inexpressible({**LLAMA, key: value})


@pytest.mark.parametrize("named", [None, "MoshiModel", [], [None, 3, ["MoshiModel"]], {"MoshiModel": 1}, 7])
def test_architectures_that_are_no_list_of_names_tell_nothing(named: object) -> None:
    refuse_inexpressible({**LLAMA, "architectures": named})


@pytest.mark.parametrize("name", VARIANTS)
def test_wrapped_architectures_are_not_refused(name: str) -> None:
    refuse_inexpressible(VARIANTS[name])
    refuse_inexpressible(wrapper({**VARIANTS[name], "vocab_size": 22, "tie_word_embeddings": False}))


@pytest.mark.parametrize("name", REPLICAS)
def test_families_that_load_are_not_refused(name: str) -> None:
    config = {**REPLICAS[name].config, **REPLICAS[name].extra}
    refuse_inexpressible(config)
    if name == "glm4voice":
        small = {**config, "vocab_size": 20, "pad_token_id": None}
        refuse_inexpressible(chatglm(small, random_weights(small))[0])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"do_layer_norm_before": False}, "post-norm blocks (OPT-350M) are another architecture."),
        ({"word_embed_proj_dim": 12}, "projected embeddings (OPT-350M) have no place in HookedTransformer."),
        ({"_remove_final_layer_norm": True}, "HookedTransformer always normalises before the unembedding."),
        ({"enable_bias": False}, "OPT's linear layers have biases."),
    ],
)
def test_an_opt_of_another_build_is_refused_with_the_reason(change: dict[str, Any], reason: str, tmp_path: Path) -> None:
    folder = write_slamkit(tmp_path, VARIANTS["opt"])
    config = json.loads((folder / "config.json").read_text())
    config["base_config"].update(change)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConversionError, match=re.escape(reason)):
        load(folder, n_units=N_UNITS)
    assert reason in " ".join(inspect(folder, n_units=N_UNITS).notes)


def test_opt_350m_is_refused(tmp_path: Path) -> None:
    """Its own config, smaller: both of its differences at once."""
    folder = write_slamkit(tmp_path, VARIANTS["opt"])
    config = json.loads((folder / "config.json").read_text())
    config["base_config"].update({"do_layer_norm_before": False, "word_embed_proj_dim": 12, "architectures": ["OPTForCausalLM"]})
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConversionError, match="OPT-350M"):
        load(folder, n_units=N_UNITS)
