from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoConfig, AutoTokenizer, LlamaForCausalLM

from slm_interp.errors import CheckpointError, SpeechError
from slm_interp.organisms import corpus as corpora
from slm_interp.organisms import names, path, train
from slm_interp.organisms.material import Material
from slm_interp.organisms.measure import lens_logits, measure
from slm_interp.organisms.recipe import Phase, Recipe, Shape
from slm_interp.organisms.samples import read_samples
from slm_interp.organisms.slamkit_layout import save_unit_lm
from slm_interp.organisms.training import fit, join_vocabularies, learning_rate, new_model, read_progress
from slm_interp.speech.acoustic import AcousticQuantiser


def as_hugging_face(folder: Path) -> LlamaForCausalLM:
    """The checkpoint read back without slm_interp: the keys without `lm.`, the base configuration as it stands."""
    base = json.loads((folder / "config.json").read_text())["base_config"]
    model = LlamaForCausalLM(AutoConfig.for_model(**base))
    state = {name.removeprefix("lm."): tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert set(missing) <= {"lm_head.weight"}
    return model.float().eval()


def test_the_configuration_is_slamkits(toy: Path) -> None:
    config = json.loads((toy / "config.json").read_text())
    assert (config["architectures"], config["model_type"]) == (["UnitLM"], "speech_language_model")
    assert config["base_config"]["model_type"] == "llama"
    assert config["tie_word_embeddings"] is True
    assert config["twist_init"] is True
    assert config["vocab_size"] == config["base_config"]["vocab_size"]
    assert [config["base_config"][name] for name in ("pad_token_id", "bos_token_id", "eos_token_id")] == [0, 1, 1]
    assert config["max_position_embeddings"] == config["base_config"]["max_position_embeddings"] == 128


def test_keys_carry_slamkits_prefix_and_a_tied_head_is_absent(toy: Path) -> None:
    with safe_open(toy / "model.safetensors", "pt") as file:
        keys = list(file.keys())
        embedding = file.get_tensor("lm.model.embed_tokens.weight")
    assert all(key.startswith("lm.model.") for key in keys)
    assert len(keys) == 2 + 2 * 9
    rows = json.loads((toy / "config.json").read_text())["vocab_size"]
    assert embedding.shape == (rows, 16)
    assert embedding.dtype == torch.bfloat16


def test_an_untied_head_is_present(tmp_path: Path) -> None:
    model = new_model(Shape(d_model=16, n_layers=1, n_heads=2, d_mlp=16, tied=False), rows=40, seed=0)
    joined = join_vocabularies(model, 50, seed=1)
    save_unit_lm(joined, tmp_path, "somebody/base")
    written = load_file(tmp_path / "model.safetensors")
    assert torch.equal(written["lm.lm_head.weight"], joined.lm_head.weight)
    assert written["lm.lm_head.weight"].shape == (50, 16)
    assert not torch.equal(written["lm.lm_head.weight"], written["lm.model.embed_tokens.weight"])


def test_units_start_where_the_text_tokenizer_ends(toy: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(toy, local_files_only=True)
    quantiser = AcousticQuantiser.load(toy)
    assert json.loads((toy / "config.json").read_text())["vocab_size"] == len(tokenizer) + quantiser.n_units + 2
    assert "<speech>" not in tokenizer.get_vocab()
    assert tokenizer.bos_token is None
    assert len(tokenizer.encode(" anna lives in london")) == 4


def test_the_manifest_tells_every_choice(recipe: Recipe, toy: Path) -> None:
    manifest = json.loads((toy / "manifest.json").read_text())
    assert manifest["quantiser"] == AcousticQuantiser.load(toy).hash
    assert manifest["recipe"]["seed"] == recipe.seed
    assert manifest["recipe"]["joint_phases"][0]["steps"] == 6
    assert manifest["recipe"]["speaking"]["voices"] == ["en-us", "en-us+f3"]
    assert {"torch", "espeakng-loader", "python"} <= set(manifest["versions"])
    assert "never trained on" in manifest["measured"]["what"]["all"]
    assert len(manifest["measured"]["text_mass_by_layer"]) == 3
    assert manifest["parameters"] == sum(weight.numel() for weight in as_hugging_face(toy).parameters())


def test_nothing_half_written_is_left(toy: Path) -> None:
    assert not [found for found in toy.rglob("*") if "partial" in found.name]
    assert {"config.json", "model.safetensors", "tokenizer.json", "quantiser.json", "samples.json", "loss.csv"} <= {
        f.name for f in toy.iterdir()
    }


def test_samples_are_said_again_exactly(recipe: Recipe, toy: Path, material: Material) -> None:
    held_out = corpora.load(toy / "work" / "held_out.safetensors", AcousticQuantiser.load(toy))
    quantiser, samples = AcousticQuantiser.load(toy), read_samples(toy)
    assert 1 <= len(samples) <= 20
    assert all(recipe.world.is_held_out(sample.text) for sample in samples)
    for sample in samples[:3]:
        original = next(one for one in held_out if one.prompt == sample.prompt)
        assert sample.prompt.audio(16_000)[1] == sample.words == original.words
        assert quantiser.encode(sample.audio()).units.tolist() == original.units.units.tolist()


def test_a_corpus_of_another_quantiser_is_refused(toy: Path) -> None:
    quantiser = AcousticQuantiser.load(toy)
    other = AcousticQuantiser(quantiser.recipe, quantiser.centroids + 1, quantiser.scale)
    with pytest.raises(SpeechError, match=f"holds units of quantiser {quantiser.hash}; wanted {other.hash}"):
        corpora.load(toy / "work" / "train.safetensors", other)


def test_the_corpus_does_not_depend_on_how_many_processes_made_it(recipe: Recipe, toy: Path) -> None:
    said = corpora.prompts(recipe.world.sentences(4, recipe.seed), recipe.speaking, recipe.seed)
    quantiser = AcousticQuantiser.load(toy)
    alone, together = (corpora.speak(said, quantiser, processes) for processes in (1, 2))
    assert [one.units.units.tolist() for one in alone] == [one.units.units.tolist() for one in together]
    trained_on = corpora.load(toy / "work" / "train.safetensors", quantiser)[:4]
    assert [one.prompt for one in trained_on] == said
    assert [one.words for one in trained_on] == [one.words for one in alone]


def test_stopped_and_resumed_training_ends_where_uninterrupted_training_does(
    recipe: Recipe, toy: Path, material: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Material.joint_batch

    def interrupted(self: Material, phase: Phase, step: int, seed: tuple[int, ...]) -> torch.Tensor:
        if step == 5:
            raise KeyboardInterrupt
        return original(self, phase, step, seed=seed)

    with monkeypatch.context() as patch:
        patch.setattr(Material, "joint_batch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fit(material, recipe, tmp_path, save_every=3)
    stopped = read_progress(tmp_path / "training.safetensors")
    assert (stopped.phase, stopped.step) == (1, 3)
    _, resumed = fit(material, recipe, tmp_path, save_every=3)
    straight = read_progress(toy / "work" / "training.safetensors")
    assert resumed.curve == straight.curve
    assert len(resumed.curve) == 13
    one, other = (load_file(folder / "training.safetensors") for folder in (tmp_path, toy / "work"))
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_training_learns(recipe: Recipe, toy: Path, material: Material, tmp_path: Path) -> None:
    longer = replace(recipe, text_phase=Phase(steps=25, rows=2, length=48, warm_up=5, learning_rate=1e-2), joint_phases=())
    _, progress = fit(material, longer, tmp_path)
    losses = [loss for _, _, loss in progress.curve]
    assert np.mean(losses[-3:]) < np.mean(losses[:3]) - 1


def test_the_learning_rate_rises_to_its_peak_and_falls_to_a_tenth() -> None:
    phase = Phase(steps=100, warm_up=10, learning_rate=1.0)
    rates = [learning_rate(phase, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[10] == 1.0
    assert rates[-1] == pytest.approx(0.1, abs=0.01)


def test_new_rows_start_at_the_mean_of_the_text_rows_and_old_rows_stay() -> None:
    model = new_model(Shape(d_model=16, n_layers=1, n_heads=2, d_mlp=16), rows=300, seed=0)
    with torch.no_grad():
        model.get_input_embeddings().weight += 1
    before = model.get_input_embeddings().weight.detach().clone()
    after = join_vocabularies(model, 400, seed=1).get_input_embeddings().weight.detach()
    assert torch.equal(after[:300], before)
    assert after.data_ptr() == model.lm_head.weight.data_ptr()
    torch.testing.assert_close(after[300:].mean(0), before.mean(0), atol=0.01, rtol=0)
    assert float(after[300:].std(0).mean()) == pytest.approx(0.02, rel=0.2)


def test_the_measurement_reads_the_shipped_weights_and_its_last_layer_is_the_model(recipe: Recipe, toy: Path, material: Material) -> None:
    model = as_hugging_face(toy)
    held_out = corpora.load(toy / "work" / "held_out.safetensors", AcousticQuantiser.load(toy))
    written = json.loads((toy / "manifest.json").read_text())["measured"]
    assert measure(model, replace(material, sentences=held_out)) == written
    ids = material.joint_batch(recipe.joint_phases[0], 0, (0,))[0]
    lens = lens_logits(model, ids)
    assert torch.equal(lens[-1], model(input_ids=ids[None]).logits[0])
    assert lens.shape[0] == 3
    assert not torch.allclose(lens[-1], lens[-2])


def test_an_organism_that_does_not_exist_is_refused() -> None:
    with pytest.raises(CheckpointError, match="No organism 'huge' ships with this package; there are"):
        path("huge")
    with pytest.raises(CheckpointError, match="No recipe 'huge'; there are: tiny"):
        train("huge", "nowhere")
    assert not Path("nowhere").exists()


def test_shipped_organisms_are_whole() -> None:
    for name in names():
        folder = path(name)
        assert AcousticQuantiser.load(folder).hash == json.loads((folder / "manifest.json").read_text())["quantiser"]
        sample = read_samples(folder)[0]
        assert sample.prompt.audio(16_000)[1] == sample.words
        assert sum(found.stat().st_size for found in folder.iterdir()) < 7_000_000
