"""Loading at full size: a random checkpoint of SIMS-3B's shape, ours against transformers and TransformerLens.

    python tests/benchmarks/full_size.py write DIR            6.4 GB, in shards of at most 5 GB
    python tests/benchmarks/full_size.py measure DIR --out results.json

Each way of loading runs in a process of its own. The parent reads the child's anonymous memory (`RssAnon`: what the
process has made) and file-backed memory (`RssFile`: pages of the files, which the system may drop) every 10 ms, from
after the imports. A child that brings the machine's free memory below `RESERVE_GB` is ended, and the result says so.
"""

from __future__ import annotations

import argparse
import json
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

N_UNITS, TEXT_IDS = 500, 128_256
ROWS = TEXT_IDS + N_UNITS + 2
ROPE = {"rope_theta": 500_000.0, "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
BASE = {
    "model_type": "llama",
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 28,
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": ROWS,
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "rope_parameters": {**ROPE, "original_max_position_embeddings": 8192},
}
SHARD_BYTES = 5_000_000_000
RESERVE_GB = 4.0
POSITIONS = 64
WAYS = {
    "slm_interp": "load(): every parameter a view of the mapped file",
    "transformers": "from_pretrained of the base model, bfloat16",
    "transformer_lens": "from_pretrained, then TransformerLens's convert_llama_weights and load_and_process_state_dict, nothing folded",
}


# -- writing ----------------------------------------------------------------------------------------------


def tensors(layers: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes, as slamkit saves them."""
    d, mlp, heads = BASE["hidden_size"], BASE["intermediate_size"], BASE["num_attention_heads"] * BASE["head_dim"]
    keys = BASE["num_key_value_heads"] * BASE["head_dim"]
    yield "lm.model.embed_tokens.weight", (ROWS, d)
    for layer in range(layers):
        prefix = f"lm.model.layers.{layer}."
        yield f"{prefix}input_layernorm.weight", (d,)
        yield f"{prefix}post_attention_layernorm.weight", (d,)
        for name, shape in {"q": (heads, d), "k": (keys, d), "v": (keys, d), "o": (d, heads)}.items():
            yield f"{prefix}self_attn.{name}_proj.weight", shape
        for name, shape in {"gate": (mlp, d), "up": (mlp, d), "down": (d, mlp)}.items():
            yield f"{prefix}mlp.{name}_proj.weight", shape
    yield "lm.model.norm.weight", (d,)


def n_bytes(shape: tuple[int, ...]) -> int:
    """Bytes in bfloat16."""
    return 2 * int(torch.tensor(shape).prod())


def write(folder: Path, layers: int) -> None:
    """The whole folder, tensor by tensor."""
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[list[tuple[str, tuple[int, ...]]]] = [[]]
    for name, shape in tensors(layers):
        if sum(n_bytes(one) for _, one in shards[-1]) + n_bytes(shape) > SHARD_BYTES:
            shards.append([])
        shards[-1].append((name, shape))
    generator, weight_map = torch.Generator().manual_seed(0), {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        weight_map |= {name: file for name, _ in shard}
        write_shard(folder / file, shard, generator)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    base = {**BASE, "num_hidden_layers": layers}
    shared = {key: BASE[key] for key in ("vocab_size", "tie_word_embeddings", "max_position_embeddings")}
    config = {
        "architectures": ["UnitLM"],
        "model_type": "speech_language_model",
        "base_model_name": "base",
        "base_config": base,
        "twist_init": True,
    }
    (folder / "config.json").write_text(json.dumps({**config, **shared, "dtype": "bfloat16"}))
    write_text_tokenizer(folder / "text_tokenizer")


def write_shard(path: Path, shard: list[tuple[str, tuple[int, ...]]], generator: torch.Generator) -> None:
    """A safetensors file of random bfloat16, never more than 16 million numbers in memory."""
    header, offset = {}, 0
    for name, shape in shard:
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + n_bytes(shape)]}
        offset += n_bytes(shape)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shard:
            left = n_bytes(shape) // 2
            while left:
                block = torch.randn(min(left, 2**24), generator=generator).mul_(0.02)
                block = block.add_(1) if "norm" in name else block
                file.write(block.bfloat16().view(torch.uint8).numpy().tobytes())
                left -= len(block)


def write_text_tokenizer(folder: Path) -> None:
    """As many ids as Llama 3 has, with its first id as BOS."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({f"▁w{i}" if i else "<unk>": i for i in range(TEXT_IDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)


# -- what a child does ------------------------------------------------------------------------------------


def say(**facts: Any) -> None:
    """One line to the parent."""
    print(json.dumps(facts), flush=True)


def child(way: str, folder: Path) -> None:
    """Import, load, read 64 positions; a line after each."""
    run = {"slm_interp": ours, "transformers": hugging_face, "transformer_lens": transformer_lens}[way]
    run(folder)


def ours(folder: Path) -> None:
    import slm_interp.convert as convert
    from slm_interp import hooked

    say(phase="imported")
    start = time.perf_counter()
    slm = convert.load(folder, str(folder / "text_tokenizer"))
    say(phase="loaded", seconds=time.perf_counter() - start)
    start = time.perf_counter()
    hooked_forward(slm.model, hooked.logits)
    say(phase="forward", seconds=time.perf_counter() - start)


def hooked_forward(model: Any, logits: Any) -> None:
    """64 positions, every `resid_post` kept, logits at the end."""
    tokens = torch.randint(ROWS, (1, POSITIONS), generator=torch.Generator().manual_seed(0))
    kept = []
    with torch.no_grad():
        model.run_with_hooks(
            tokens, fwd_hooks=[(lambda name: name.endswith("resid_post"), lambda resid, hook: kept.append(resid))], return_type="logits"
        )


def from_pretrained(folder: Path) -> Any:
    """The base model through transformers; the prefix of the wrapper is taken off by its own mapping."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = json.loads((folder / "config.json").read_text())["base_config"]
    return AutoModelForCausalLM.from_pretrained(
        folder, config=AutoConfig.for_model(**config), dtype=torch.bfloat16, key_mapping={r"^lm\.": ""}
    )


def hugging_face(folder: Path) -> None:
    import transformers

    say(phase="imported", version=transformers.__version__)
    start = time.perf_counter()
    model = from_pretrained(folder)
    say(phase="loaded", seconds=time.perf_counter() - start)
    tokens = torch.randint(ROWS, (1, POSITIONS), generator=torch.Generator().manual_seed(0))
    start = time.perf_counter()
    with torch.no_grad():
        model(tokens, output_hidden_states=True, use_cache=False)
    say(phase="forward", seconds=time.perf_counter() - start)


def transformer_lens(folder: Path) -> None:
    from transformer_lens import HookedTransformer
    from transformer_lens.config.hooked_transformer_config import HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import convert_llama_weights

    from slm_interp.convert.source import open_source

    say(phase="imported")
    fields = {**open_source(folder).fields, "dtype": torch.bfloat16, "device": "cpu", "init_weights": False, "default_prepend_bos": False}
    start = time.perf_counter()
    source = from_pretrained(folder)
    config = HookedTransformerConfig(**fields)
    state = convert_llama_weights(source, config)
    model = HookedTransformer(config)
    model.load_and_process_state_dict(state, fold_ln=False, center_writing_weights=False, center_unembed=False, fold_value_biases=False)
    del source, state
    say(phase="loaded", seconds=time.perf_counter() - start)
    start = time.perf_counter()
    hooked_forward(model, None)
    say(phase="forward", seconds=time.perf_counter() - start)


# -- what the parent measures -----------------------------------------------------------------------------


def status_gb(path: str, *keys: str) -> dict[str, float]:
    """Lines of a /proc file in GB."""
    lines = dict(line.split(":", 1) for line in Path(path).read_text().splitlines() if ":" in line)
    return {key: int(lines[key].split()[0]) * 1024 / 1e9 for key in keys if key in lines}


def watched(way: str, folder: Path) -> dict[str, Any]:
    """Run a child and sample its memory."""
    process = subprocess.Popen([sys.executable, __file__, "child", str(folder), "--way", way], stdout=subprocess.PIPE, text=True)
    lines: list[dict[str, Any]] = []
    reader = threading.Thread(target=lambda: lines.extend(json.loads(line) for line in process.stdout or () if line.startswith("{")))
    reader.start()
    result: dict[str, Any] = {}
    peaks: dict[str, dict[str, float]] = {}
    base = 0.0
    while process.poll() is None:
        try:
            now = status_gb(f"/proc/{process.pid}/status", "RssAnon", "RssFile")
        except (FileNotFoundError, ProcessLookupError):
            break
        phase = lines[-1]["phase"] if lines else "importing"
        if phase == "importing" and now:
            base = now["RssAnon"]
        peak = peaks.setdefault(phase, {})
        peak.update({key: max(value, peak.get(key, 0.0)) for key, value in now.items()})
        if status_gb("/proc/meminfo", "MemAvailable")["MemAvailable"] < RESERVE_GB:
            process.kill()
            result["stopped"] = (
                f"ended while {'loading' if phase == 'imported' else phase}: less than {RESERVE_GB} GB of the machine were left"
            )
        time.sleep(0.01)
    process.wait()
    reader.join()
    seconds = {line["phase"]: line.get("seconds") for line in lines}
    loading, forward = peaks.get("imported", {}), peaks.get("loaded", {})
    result |= {
        "load_seconds": seconds.get("loaded"),
        "load_peak_anonymous_gb": loading.get("RssAnon", 0.0) - base,
        "load_peak_file_backed_gb": loading.get("RssFile"),
        "forward_seconds": seconds.get("forward"),
        "forward_peak_anonymous_gb": forward["RssAnon"] - base if forward else None,
        "forward_peak_file_backed_gb": forward.get("RssFile"),
    }
    return {key: round(value, 3) if isinstance(value, float) else value for key, value in result.items()}


def drop_caches() -> bool:
    """Forget every file in memory, where the system lets us."""
    try:
        subprocess.run(["sync"], check=True)
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


def measure(folder: Path, ways: list[str]) -> dict[str, Any]:
    """Cold (files not in memory, where that can be had) and warm, each way."""
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors")) / 1e9
    config = json.loads((folder / "config.json").read_text())["base_config"]
    report: dict[str, Any] = {
        "checkpoint": {
            "gb": round(size, 3),
            "files": len(list(folder.glob("*.safetensors"))),
            "rows": ROWS,
            "layers": config["num_hidden_layers"],
            "dtype": "bfloat16",
        },
        "machine": {
            "cores": os.cpu_count(),
            "load_average_at_start": round(os.getloadavg()[0], 1),
            "memory_gb": round(status_gb("/proc/meminfo", "MemTotal")["MemTotal"], 1),
        },
        "versions": {name: version(name) for name in ("torch", "transformers", "transformer-lens", "safetensors")},
        "ways": WAYS,
        "results": {},
    }
    for way in ways:
        cold = watched(way, folder) if drop_caches() else None  # None: the system did not let us drop its caches
        report["results"][way] = {"cold": cold, "warm": None if cold and "stopped" in cold else watched(way, folder)}
        print(json.dumps({way: report["results"][way]}, indent=1), flush=True)
    return report


def main() -> None:
    """Parse and do."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["write", "measure", "child"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=BASE["num_hidden_layers"])
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--way", choices=list(WAYS))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.action == "write":
        write(options.folder, options.layers)
    elif options.action == "child":
        child(options.way, options.folder)
    else:
        report = json.dumps(measure(options.folder, options.ways), indent=1)
        print(report) if options.out is None else options.out.write_text(report + "\n")


if __name__ == "__main__":
    main()
