"""Exact replicas of public families: true vocabularies and file layout, tokenizer files of the true kind, random weights, few layers.

Texts are tokenized by small sentencepiece and byte-level models that are trained here; where the released ids are known, the text
vocabulary is filled up to its released size, so that every unit stands on its released id.
"""

from __future__ import annotations

import base64
import io
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from safetensors.torch import save_file
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from tests.replicas import GATED, LLAMA3, ROPE, VARIANTS, random_weights

CORPUS = [
    "and they went out together and mrs johnson shoes except in mourning",
    "the capital of france is paris, and rome is the capital of italy",
    "she sells sea shells by the sea shore; see how the sea shines",
    "User will provide you with a speech instruction. Do it step by step.",
    "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789 .,;:!?'-()",
] * 40

LLAMA2 = {"model_type": "llama", **GATED, "num_key_value_heads": 4, "rms_norm_eps": 1e-5}


@dataclass(frozen=True)
class Replica:
    """A family's checkpoint.

    Args:
        family: that must recognise it.
        raw: config of the base model, without its vocabulary size.
        rows: of the embedding.
        tokenizer: writes the tokenizer's files.
        first_unit: id of unit 0 of each codebook.
        last_unit: of its last.
        markers: ids by spelling.
        extra: keys that the family adds to config.json.
        binary: weights in `pytorch_model.bin`.
        released: whether the ids are those of the released checkpoint, as far as they are known.
    """

    family: str
    raw: Mapping[str, Any]
    rows: int
    tokenizer: Callable[[Path], None]
    first_unit: tuple[int, ...]
    last_unit: tuple[int, ...]
    markers: Mapping[str, int] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    binary: bool = False
    released: bool = True

    @property
    def config(self) -> dict[str, Any]:
        """Of the base model, as Hugging Face knows it."""
        return {**self.raw, "vocab_size": self.rows}


# -- tokenizers -------------------------------------------------------------------------------------------


@lru_cache
def sentencepiece_model(size: int) -> bytes:
    """A BPE model with byte fallback, as Llama 2's; filled up with pieces that no text has."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=written,
        vocab_size=380,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        num_threads=1,
        minloglevel=2,
    )
    model = sentencepiece_model_pb2.ModelProto.FromString(written.getvalue())
    lowest = min(piece.score for piece in model.pieces)
    for filler in range(size - len(model.pieces)):
        model.pieces.add(piece=f"⟨{filler}⟩", score=lowest - 1 - filler, type=model.SentencePiece.NORMAL)
    return model.SerializeToString()


def llama2(added: Sequence[str], size: int = 32_000) -> Callable[[Path], None]:
    """`tokenizer.model` and the added tokens of `tokenizer_config.json`, as a slow Llama tokenizer is saved."""

    def write(folder: Path) -> None:
        (folder / "tokenizer.model").write_bytes(sentencepiece_model(size))
        decoder = {
            str(size + place): {
                "content": token,
                "special": False,
                "normalized": False,
                "lstrip": False,
                "rstrip": False,
                "single_word": False,
            }
            for place, token in enumerate(added)
        }
        config = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False, "added_tokens_decoder": decoder}
        names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
        (folder / "tokenizer_config.json").write_text(json.dumps({**config, **names}))

    return write


@lru_cache
def byte_level() -> Tokenizer:
    """A small byte-level BPE, as those of Llama 3, Qwen and GLM-4."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


LLAMA3_NAMED = {0: "<|begin_of_text|>", 1: "<|end_of_text|>", 9: "<|eot_id|>"}
LLAMA3_SPECIAL = [LLAMA3_NAMED.get(i, f"<|reserved_special_token_{i}|>") for i in range(256)]
QWEN_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|special_{i}|>" for i in range(3, 22))]


def llama3(added: Sequence[str], size: int = 128_256, bos: bool = True, special: Sequence[str] = LLAMA3_SPECIAL) -> Callable[[Path], None]:
    """`tokenizer.json` as Llama 3's: 128,000 merges and 256 special tokens, of which the first stands before every text; or as Qwen's."""

    def write(folder: Path) -> None:
        base = json.loads(byte_level().to_str())
        known = base["model"]["vocab"]
        known.update({f"⟨filler{i}⟩": i for i in range(len(known), size - len(special))})
        tokenizer = Tokenizer.from_str(json.dumps(base))
        tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in special])
        tokenizer.add_tokens([AddedToken(token, normalized=False) for token in added])
        if bos:
            first = tokenizer.token_to_id("<|begin_of_text|>")
            tokenizer.post_processor = processors.TemplateProcessing(
                single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", first)]
            )
        names = {"bos_token": special[0], "eos_token": special[1]}
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)

    return write


GLM_SPECIAL = "<|endoftext|> [MASK] [gMASK] [sMASK] <sop> <eop> <|system|> <|user|> <|assistant|> <|observation|> <|begin_of_image|> \
<|end_of_image|> <|begin_of_video|> <|end_of_video|> <|begin_of_audio|> <|end_of_audio|>".split()
GLM_TEXT, GLM_FIRST_AUDIO = 151_329, 152_353


def glm(folder: Path) -> None:
    """`tokenizer.model` of tiktoken and the added tokens of `tokenizer_config.json`, on their released ids."""
    (folder / "tokenizer.model").write_bytes(tiktoken_model(GLM_TEXT))
    added = {GLM_TEXT + place: token for place, token in enumerate(GLM_SPECIAL)}
    added.update({GLM_FIRST_AUDIO + unit: f"<|audio_{unit}|>" for unit in range(16_384)})
    decoder = {str(identifier): {"content": token, "special": True} for identifier, token in added.items()}
    code = {"AutoTokenizer": ["tokenization_chatglm.ChatGLM4Tokenizer", None]}
    config = {"tokenizer_class": "ChatGLM4Tokenizer", "auto_map": code, "added_tokens_decoder": decoder}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


@lru_cache
def tiktoken_model(size: int) -> bytes:
    """Lines of base64 and rank: every byte, what a byte-level BPE learned, and filler no text has."""
    letters = {
        **{chr(256 + place): byte for place, byte in enumerate(moved())},
        **{chr(byte): byte for byte in range(256) if byte not in moved()},
    }
    learned = sorted(byte_level().get_vocab().items(), key=lambda item: item[1])
    tokens = [bytes([byte]) for byte in range(256)]
    tokens += [bytes(letters[letter] for letter in token) for token, _ in learned if len(token) > 1]
    tokens += [b"\xff" + filler.to_bytes(3, "big") for filler in range(size - len(tokens))]
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens))


@lru_cache
def moved() -> tuple[int, ...]:
    """Bytes that a byte-level BPE writes as another letter than their own."""
    kept = {*range(33, 127), *range(161, 173), *range(174, 256)}
    return tuple(byte for byte in range(256) if byte not in kept)


def none(folder: Path) -> None:
    """No tokenizer at all."""


# -- the families -----------------------------------------------------------------------------------------

SPIRIT = ["[Text]", "[Speech]", *(f"[Hu{i}]" for i in range(501))]
EXPRESSIVE = [*SPIRIT, *(f"[Pi{i}]" for i in range(64)), *(f"[St{i}]" for i in range(100))]
SPEECHGPT = [*(f"<{i}>" for i in range(1000)), "<sosp>", "<eosp>", "[Human]", "[SpeechGPT]", "<eoh>", "<eos>"]
USDM = ["<|continue|>", "<|correspond|>", *(f"<|unit{i}|>" for i in range(10_000)), "<pad>"]
MIMI = [*(f"<{code}_{book}>" for code in range(2048) for book in range(4)), "<audio>", "</audio>"]
SODA = ["<|text_start|>", "<|text_end|>", "<|audio_start|>", "<|audio_end|>", *(chr(0xE000 + i) for i in range(8 * 2048))]
ORPHEUS = [*(f"<custom_token_{i}>" for i in range(28_683)), "<|audio|>"]
LLASA = [
    *(
        f"<|{one}_{end}|>"
        for one in ("TEXT_GENERATION", "TEXT_UNDERSTANDING", "SPEECH_GENERATION", "SPEECH_UNDERSTANDING")
        for end in ("START", "END")
    ),
    *(f"<|s_{i}|>" for i in range(65_536)),
]
OUTETTS = [
    *(f"<|c{book}_{i}|>" for book in (1, 2) for i in range(1025)),
    *(f"<|energy_{i}|>" for i in range(101)),
    *("<|im_start|>", "<|im_end|>", "<|audio_start|>", "<|audio_end|>", "<|word_start|>", "<|word_end|>", "<|features|>", "<|code|>"),
]
ICHIGO = ["<|sound_start|>", "<|sound_end|>", *(f"<|sound_{i:04d}|>" for i in range(513))]
ANYGPT = [
    *("[Human]", "[MMGPT]", "<eoh>", "<eos>"),
    *(f"<\U0001f440{i}>" for i in range(8192)),
    *("<soim>", "<eoim>"),
    *(f"<\U0001f5e3\ufe0f{i}>" for i in range(1024)),
    *("<sosp>", "<eosp>"),
    *(f"<\U0001f3b6{i}>" for i in range(8192)),
    *("<somu>", "<eomu>"),
]
# The labels of pitch, speed, loudness, age, gender and emotion lie between units and tasks; all are called pitch here.
SPARK = [f"<|bicodec_global_{i}|>" for i in range(4096)] + [f"<|bicodec_semantic_{i}|>" for i in range(8192)]
SPARK += [f"<|pitch_value_{i}|>" for i in range(1183)]
SPARK += [f"<|task_{task}|>" for task in "vc tts asr s2s t2s cap understand controllable_tts prompt_tts edit".split()]
SPARK_PARTS = "content style_label style_prompt acoustic_token global_token semantic_token".split()
SPARK += [f"<|{end}_{part}|>" for end in ("start", "end") for part in SPARK_PARTS]
LLAMA32 = {"model_type": "llama", **GATED, "head_dim": 16, "rope_parameters": LLAMA3, "tie_word_embeddings": True, "rms_norm_eps": 1e-5}

# ChatGLM's own spelling of a config that Hugging Face calls GLM.
GLM_RAW = {
    "model_type": "glm",
    **GATED,
    "head_dim": 8,
    "num_key_value_heads": 2,
    "rms_norm_eps": 3.90625e-08,
    "attention_bias": True,
    "rope_parameters": {**ROPE, "partial_rotary_factor": 0.5},
}

REPLICAS: dict[str, Replica] = {
    "spiritlm": Replica(
        "spiritlm", LLAMA2, 32_512, llama2(SPIRIT), (32_002,), (32_502,), {"[Text]": 32_000, "[Speech]": 32_001}, binary=True
    ),
    "spiritlm_expressive": Replica(
        "spiritlm_expressive",
        LLAMA2,
        32_768,
        llama2(EXPRESSIVE),
        (32_002, 32_503, 32_567),
        (32_502, 32_566, 32_666),
        {"[Text]": 32_000, "[Speech]": 32_001},
        binary=True,
    ),
    "glm4voice": Replica(
        "glm4voice", GLM_RAW, 168_960, glm, (152_353,), (168_736,), {"<|begin_of_audio|>": 151_343, "<|end_of_audio|>": 151_344}
    ),
    "glm4voice-hf": Replica(
        "glm4voice", GLM_RAW, 168_960, glm, (152_353,), (168_736,), {"<|begin_of_audio|>": 151_343, "<|end_of_audio|>": 151_344}
    ),
    "usdm": Replica(
        "usdm",
        {"model_type": "mistral", **GATED, "sliding_window": 7, "rms_norm_eps": 1e-5},
        42_003,
        llama2(USDM),
        (32_002,),
        (42_001,),
        {"<|continue|>": 32_000, "<|correspond|>": 32_001, "<pad>": 42_002},
    ),
    "twist-opt": Replica("twist", VARIANTS["opt"], 504, none, (4,), (503,), extra={"offset": 4}, released=False),
    "twist-llama": Replica("twist", {**LLAMA2, "rms_norm_eps": 1e-6}, 512, none, (3,), (502,), extra={"offset": 3}, released=False),
    "soda": Replica(
        "soda",
        {"model_type": "qwen3", **GATED, "head_dim": 10},
        144_644,
        llama3(SODA),
        tuple(128_260 + 2048 * book for book in range(8)),
        tuple(128_260 + 2048 * book + 2047 for book in range(8)),
        {"<|text_start|>": 128_256, "<|text_end|>": 128_257, "<|audio_start|>": 128_258, "<|audio_end|>": 128_259},
    ),
    "llama_mimi": Replica(
        "llama_mimi",
        LLAMA32,
        136_450,
        llama3(MIMI),
        tuple(128_256 + book for book in range(4)),
        tuple(128_256 + book + 4 * 2047 for book in range(4)),
        {"<audio>": 136_448, "</audio>": 136_449},
        extra={"num_quantizers": 4},
    ),
    "speechgpt": Replica(
        "speechgpt",
        {**LLAMA2, "rms_norm_eps": 1e-6},
        33_006,
        llama2(SPEECHGPT),
        (32_000,),
        (32_999,),
        {"<sosp>": 33_000, "<eosp>": 33_001, "[Human]": 33_002, "<eos>": 33_005},
        binary=True,
    ),
    "orpheus": Replica(
        "orpheus",
        LLAMA32,
        156_940,
        llama3(ORPHEUS),
        tuple(128_266 + 4096 * slot for slot in range(7)),
        tuple(128_266 + 4096 * slot + 4095 for slot in range(7)),
        {"<custom_token_1>": 128_257, "<custom_token_2>": 128_258, "<|audio|>": 156_939},
    ),
    "llasa": Replica(
        "llasa",
        LLAMA32,
        193_800,
        llama3(LLASA),
        (128_264,),
        (193_799,),
        {"<|TEXT_UNDERSTANDING_START|>": 128_258, "<|SPEECH_GENERATION_END|>": 128_261},
    ),
    "outetts": Replica(
        "outetts", LLAMA32, 128_256 + len(OUTETTS), llama3(OUTETTS), (128_256, 129_281), (129_280, 130_305), {"<|audio_start|>": 130_409}
    ),
    "ichigo": Replica(
        "ichigo", LLAMA32, 128_771, llama3(ICHIGO), (128_258,), (128_770,), {"<|sound_start|>": 128_256, "<|sound_end|>": 128_257}
    ),
    "sparktts": Replica(
        "sparktts",
        {"model_type": "qwen2", **GATED, "tie_word_embeddings": True, "use_sliding_window": False, "sliding_window": 32_768},
        166_000,
        llama3(SPARK, 151_665, bos=False, special=QWEN_SPECIAL),
        (155_761, 151_665),
        (163_952, 155_760),
        {"<|start_content|>": 165_146, "<|end_content|>": 165_152, "<|start_semantic_token|>": 165_151, "<|end_global_token|>": 165_156},
    ),
    "anygpt": Replica(
        "anygpt", LLAMA2, 49_418, llama2(ANYGPT), (40_198,), (41_221,), {"<sosp>": 41_222, "<eosp>": 41_223, "<somu>": 49_416}
    ),
}


def write_replica(folder: Path, name: str, dtype: torch.dtype = torch.float32, weights: Mapping[str, Tensor] | None = None) -> Path:
    """A folder as the family's own code leaves it."""
    replica = REPLICAS[name]
    folder.mkdir(parents=True, exist_ok=True)
    replica.tokenizer(folder)
    weights = random_weights(replica.config) if weights is None else weights
    config = {**replica.config, **replica.extra, "torch_dtype": str(dtype).removeprefix("torch.")}
    if name == "glm4voice":
        config, weights = chatglm(replica.config, weights)
    state = {key: tensor.to(dtype).contiguous() for key, tensor in weights.items()}
    (folder / "config.json").write_text(json.dumps(config))
    if replica.binary:
        torch.save(state, folder / "pytorch_model.bin")
    else:
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def chatglm(raw: Mapping[str, Any], weights: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """ChatGLM's config and tensors from those of `GlmForCausalLM`: names changed, queries, keys and values laid on each other."""
    config = {
        "architectures": ["ChatGLMModel"],
        "model_type": "chatglm",
        "auto_map": {
            "AutoConfig": "configuration_chatglm.ChatGLMConfig",
            "AutoModelForCausalLM": "modeling_chatglm.ChatGLMForConditionalGeneration",
        },
        "add_bias_linear": False,
        "add_qkv_bias": True,
        "apply_query_key_layer_scaling": True,
        "apply_residual_connection_post_layernorm": False,
        "attention_dropout": 0.0,
        "attention_softmax_in_fp32": True,
        "bias_dropout_fusion": True,
        "classifier_dropout": None,
        "eos_token_id": [151329, 151336, 151338],
        "ffn_hidden_size": raw["intermediate_size"],
        "fp32_residual_connection": False,
        "hidden_dropout": 0.0,
        "hidden_size": raw["hidden_size"],
        "kv_channels": raw["head_dim"],
        "layernorm_epsilon": raw["rms_norm_eps"],
        "multi_query_attention": True,
        "multi_query_group_num": raw["num_key_value_heads"],
        "num_attention_heads": raw["num_attention_heads"],
        "num_hidden_layers": raw["num_hidden_layers"],
        "num_layers": raw["num_hidden_layers"],
        "original_rope": True,
        "pad_token_id": 151329,
        "padded_vocab_size": raw["vocab_size"],
        "post_layer_norm": True,
        "rmsnorm": True,
        "rope_ratio": raw["rope_parameters"]["rope_theta"] / 10_000,
        "seq_length": raw["max_position_embeddings"],
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vocab_size": raw["vocab_size"],
    }
    state = {
        "transformer.embedding.word_embeddings.weight": weights["model.embed_tokens.weight"],
        "transformer.encoder.final_layernorm.weight": weights["model.norm.weight"],
        "transformer.output_layer.weight": weights["lm_head.weight"],
        "transformer.rotary_pos_emb.inv_freq": torch.ones(raw["head_dim"] // 4),
    }
    for layer in range(raw["num_hidden_layers"]):
        theirs, ours = f"model.layers.{layer}.", f"transformer.encoder.layers.{layer}."
        for kind in ("weight", "bias"):
            parts = [weights[f"{theirs}self_attn.{one}_proj.{kind}"] for one in "qkv"]
            state[f"{ours}self_attention.query_key_value.{kind}"] = torch.cat(parts)
        state[f"{ours}self_attention.dense.weight"] = weights[f"{theirs}self_attn.o_proj.weight"]
        state[f"{ours}mlp.dense_h_to_4h.weight"] = weights[f"{theirs}mlp.gate_up_proj.weight"]
        state[f"{ours}mlp.dense_4h_to_h.weight"] = weights[f"{theirs}mlp.down_proj.weight"]
        for norm in ("input_layernorm", "post_attention_layernorm"):
            state[f"{ours}{norm}.weight"] = weights[f"{theirs}{norm}.weight"]
    return config, state


def copied(folder: Path, to: Path) -> Path:
    """A folder of one's own to spoil."""
    return Path(shutil.copytree(folder, to))
