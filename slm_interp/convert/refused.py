"""Speech language models that a decoder-only HookedTransformer cannot express: recognised, and refused with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slm_interp.errors import ConversionError


@dataclass(frozen=True)
class Refusal:
    """A kind of model that cannot be loaded.

    Args:
        name: of the model.
        reason: what has no place in a HookedTransformer.
        instead: what can be loaded, if anything.
        model_types: of config.json; any of them tells it.
        architectures: beginnings of names in config.json; any of them tells it.
        keys: of config.json; any of them, with a value that is not empty, tells it.
    """

    name: str
    reason: str
    instead: str = ""
    model_types: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()

    def fits(self, config: Mapping[str, Any]) -> bool:
        """Whether a config is one of this kind."""
        named = config.get("architectures")
        architectures = [str(one) for one in named] if isinstance(named, list | tuple) else []
        return (
            config.get("model_type") in self.model_types
            or any(one.startswith(self.architectures) for one in architectures if self.architectures)
            or any(config.get(key) not in (None, {}, [], 0, False) for key in self.keys)
        )


SUMMED = "several codebooks are summed into one embedding at each position, and several heads read it"
CONTINUOUS = "its speech input is continuous (an encoder and an adapter), so there are no speech ids to read or to patch"
TRUNK = "Its trunk alone is an ordinary decoder: save it with the base model's class and load it with family= and a declaration"

REFUSALS: tuple[Refusal, ...] = (
    Refusal(
        "Moshi", f"{SUMMED}; a depth transformer writes them", model_types=("moshi", "kyutai_speech_to_text"), architectures=("Moshi",)
    ),
    Refusal("CSM", f"{SUMMED}; a second decoder writes them", model_types=("csm",), architectures=("CsmForConditional",)),
    Refusal(
        "Higgs Audio",
        f"{SUMMED}, and audio positions have MLPs and norms of their own (DualFFN)",
        model_types=("higgs_audio", "higgs_audio_v2", "higgs_audio_encoder"),
        architectures=("HiggsAudio",),
    ),
    # Voila calls itself a llama and MiMo-Audio a qwen2: only their keys tell.
    Refusal("Voila", f"{SUMMED}; input ids are [batch, pos, 4]", TRUNK, architectures=("Voila",), keys=("min_audio_token_id",)),
    Refusal(
        "Baichuan-Audio",
        f"{SUMMED}; a separate audio head reads them",
        model_types=("omni",),
        architectures=("OmniForCausalLM", "OmniAudio"),
    ),
    Refusal(
        "TASTE",
        "text and speech embeddings are fused by a learned weighted sum",
        model_types=("taste", "taslm"),
        architectures=("Taste", "Taslm"),
    ),
    Refusal(
        "Kimi-Audio",
        "text ids, audio ids and continuous features are added at each position, and six further layers branch off layer 21",
        model_types=("kimi_audio", "moonshot_kimia"),
        architectures=("MoonshotKimia", "KimiAudio"),
        keys=("kimia_mimo_layers",),
    ),
    Refusal(
        "MiMo-Audio",
        "patches of four frames by eight codebooks pass through an encoder of their own before the decoder",
        TRUNK,
        model_types=("mimo_audio",),
        architectures=("MiMoAudio",),
        keys=("speech_zeroemb_idx", "input_local_layers", "delay_pattern"),
    ),
    Refusal(
        "VITA-Audio",
        "ten further layers predict several tokens at once (multi-token prediction)",
        TRUNK,
        model_types=("qwen2_mtp", "qwen2_mtp_sensevoice"),
        architectures=("Qwen2MTP", "VITAAudio"),
        keys=("num_nextn_predict_layers",),
    ),
    Refusal("Step-Audio", "Step-1 has no rotary positions (ALiBi)", model_types=("step1",), architectures=("Step1",)),
    Refusal("Step-Audio 2", CONTINUOUS, TRUNK, model_types=("step_audio_2", "step_audio_qwen2"), architectures=("StepAudio2",)),
    Refusal(
        "LLaMA-Omni",
        "the speech generator is a second model fed with hidden states of the first",
        model_types=("omni2_speech2s_qwen2", "omni2_speech_qwen2", "omni_speech2s_llama", "omni_speech_llama"),
        architectures=("OmniSpeech", "Omni2Speech"),
        keys=("speech_generator", "speech_generator_type"),
    ),
    Refusal(
        "Qwen Omni",
        "the talker is conditioned on hidden states of the thinker and counts positions in three dimensions (M-RoPE)",
        model_types=("qwen2_5_omni", "qwen2_5_omni_talker", "qwen2_5_omni_thinker", "qwen2_5_omni_text", "qwen3_omni_moe"),
        architectures=("Qwen2_5Omni", "Qwen3Omni"),
        keys=("talker_config", "thinker_config"),
    ),
    Refusal(
        "Hierarchical SODA", "a depth transformer writes the acoustic codes", "The flattened SODA models load", model_types=("soda_hier",)
    ),
    Refusal("Flow-SLM", "it writes continuous frames by flow matching", architectures=("FlowSLM",)),
    Refusal(
        "A model of audio features",
        CONTINUOUS,
        model_types=("qwen2_audio", "ultravox", "granite_speech", "voxtral", "audioflamingo3", "salmonn"),
        architectures=("Qwen2Audio", "Ultravox", "Salmonn", "Voxtral"),
        keys=("audio_config", "audio_encoder_config", "audio_tower_config", "speech_encoder", "audio_model_id", "mm_audio_tower"),
    ),
    Refusal(
        "A model of several codebooks a position",
        SUMMED,
        TRUNK,
        keys=("num_codebooks", "n_q", "dep_q", "depth_decoder_config", "audio_num_codebooks"),
    ),
)


def refuse_inexpressible(config: Mapping[str, Any]) -> None:
    """Refuse a checkpoint whose model cannot be expressed.

    Raises:
        ConversionError: with the reason, and what can be loaded instead.
    """
    for one in REFUSALS:
        if one.fits(config):
            raise ConversionError(
                f"{one.name} cannot be a HookedTransformer: {one.reason}.{' ' + one.instead + '.' if one.instead else ''}"
            )
