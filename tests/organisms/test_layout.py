from __future__ import annotations

import json
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoTokenizer

import slm_interp as si
from slm_interp.errors import CheckpointError, SpeechError
from slm_interp.organisms import RECIPES, names, path, train
from slm_interp.organisms.corpus import Document
from slm_interp.organisms.material import Material
from slm_interp.organisms.measure import heard_ids, lens_logits, measure
from slm_interp.organisms.network import joint_model, new_model
from slm_interp.organisms.recipe import Recipe
from slm_interp.organisms.samples import read_samples, write_samples
from slm_interp.organisms.slamkit_layout import save_unit_lm
from slm_interp.speech.acoustic import AcousticQuantiser
from tests.organisms.toy import TOY, as_hugging_face


def test_the_configuration_is_slamkits(toy: Path) -> None:
    config = json.loads((toy / "config.json").read_text())
    assert (config["architectures"], config["model_type"]) == (["UnitLM"], "speech_language_model")
    assert config["base_config"]["model_type"] == "llama"
    assert config["tie_word_embeddings"] is True
    assert config["twist_init"] is True
    assert config["vocab_size"] == config["base_config"]["vocab_size"]
    assert [config["base_config"][name] for name in ("pad_token_id", "bos_token_id", "eos_token_id")] == [0, 1, 1]
    assert config["max_position_embeddings"] == config["base_config"]["max_position_embeddings"] == TOY.shape.n_ctx


def test_keys_carry_slamkits_prefix_and_a_tied_head_is_absent(toy: Path) -> None:
    with safe_open(toy / "model.safetensors", "pt") as file:
        keys = list(file.keys())
        embedding = file.get_tensor("lm.model.embed_tokens.weight")
    assert all(key.startswith("lm.model.") for key in keys)
    assert len(keys) == 2 + 4 * 9
    rows = json.loads((toy / "config.json").read_text())["vocab_size"]
    assert embedding.shape == (rows, 16)
    assert embedding.dtype == torch.bfloat16


def test_an_untied_head_is_present(tmp_path: Path) -> None:
    shape = replace(TOY.shape, tied=False)
    joined = joint_model(new_model(shape, 40, seed=0, n_layers=2), shape, 50, seed=1)
    save_unit_lm(joined, tmp_path, "somebody/base", twist_init=False)
    written = load_file(tmp_path / "model.safetensors")
    assert torch.equal(written["lm.lm_head.weight"], joined.lm_head.weight)
    assert written["lm.lm_head.weight"].shape == (50, 16)
    assert not torch.equal(written["lm.lm_head.weight"], written["lm.model.embed_tokens.weight"])
    assert json.loads((tmp_path / "config.json").read_text())["twist_init"] is False


def test_units_start_where_the_text_tokenizer_ends(toy: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(toy, local_files_only=True)
    quantiser = AcousticQuantiser.load(toy)
    assert json.loads((toy / "config.json").read_text())["vocab_size"] == len(tokenizer) + quantiser.n_units + 2
    assert "<speech>" not in tokenizer.get_vocab()
    assert tokenizer.bos_token is None
    assert tokenizer.decode(tokenizer.encode(" anna lives in london")) == " anna lives in london"


def test_the_manifest_tells_every_choice(recipe: Recipe, toy: Path) -> None:
    manifest = json.loads((toy / "manifest.json").read_text())
    assert manifest["quantiser"] == AcousticQuantiser.load(toy).hash
    assert manifest["recipe"]["seed"] == recipe.seed
    assert manifest["recipe"]["joint_phases"][0]["steps"] == 6
    assert manifest["recipe"]["speaking"]["voices"] == ["en-us", "en-us+f3"]
    assert {"torch", "espeakng-loader", "python"} <= set(manifest["versions"])
    assert "never trained on" in manifest["measured"]["what"]["all"]
    assert len(manifest["measured"]["text_mass_by_layer"]) == recipe.shape.n_layers + 1
    assert manifest["measured"]["sentences"] == recipe.held_out
    assert manifest["recipe"]["world"]["sides"] == list(recipe.world.sides)
    assert manifest["parameters"] == sum(weight.numel() for weight in as_hugging_face(toy).parameters())


def test_nothing_half_written_is_left(toy: Path) -> None:
    assert not [found for found in toy.rglob("*") if "partial" in found.name]
    assert {"config.json", "model.safetensors", "tokenizer.json", "quantiser.json", "samples.json", "loss.csv"} <= {
        f.name for f in toy.iterdir()
    }


def test_samples_are_held_out_sentences_that_are_said_again_exactly(recipe: Recipe, toy: Path, heard: dict[str, list[Document]]) -> None:
    quantiser, samples = AcousticQuantiser.load(toy), read_samples(toy)
    assert 1 <= len(samples) <= 20
    assert all(recipe.world.is_held_out(sample.text) for sample in samples)
    for sample in samples[:3]:
        original = next(one for (one,) in heard["held_out"] if one.prompt == sample.prompt)
        assert sample.prompt.audio(16_000)[1] == sample.words == original.words
        assert quantiser.encode(sample.audio()).units.tolist() == original.units.units.tolist()


def test_facts_come_first_among_the_samples_then_the_longest(heard: dict[str, list[Document]], tmp_path: Path) -> None:
    spoken = [one for document in heard["held_out"] for one in document]
    shortest = min(spoken, key=lambda one: len(one.words)).prompt.text
    write_samples(spoken, {shortest}, tmp_path)
    samples = read_samples(tmp_path)
    assert samples[0].text == shortest
    assert all(len(one.words) >= len(other.words) for one, other in pairwise(samples[1:]))
    assert len({sample.text.split()[0] + sample.text.split()[1] for sample in samples}) == len(samples)


def test_a_folder_without_samples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No samples.json in"):
        read_samples(tmp_path)


def test_the_folder_loads_through_the_front_door_and_says_what_the_trained_model_said(toy: Path, material: Material) -> None:
    slm = si.load(toy, dtype=torch.float32)
    ids = material.joint_batch(TOY.joint_phases[0], 0, (0,))
    with torch.no_grad():
        torch.testing.assert_close(slm.model(ids), as_hugging_face(toy)(input_ids=ids).logits, atol=1e-4, rtol=1e-4)
    assert slm.vocabulary.ranges == material.vocabulary.ranges
    assert {word: slm.word_ids(word) for word in ("anna", "measure")} == {
        word: material.speller.whole[word] for word in ("anna", "measure")
    }
    utterance = read_samples(toy)[0].utterance(slm)
    assert [word.text for word in utterance.words] == [word.text for word in read_samples(toy)[0].words]


# -- the measurement ---------------------------------------------------------------------------------


def test_the_measurement_reads_the_shipped_weights_and_its_last_layer_is_the_model(
    recipe: Recipe, toy: Path, material: Material, heard: dict[str, list[Document]]
) -> None:
    model = as_hugging_face(toy)
    spoken = [one for document in heard["held_out"] for one in document]
    assert measure(model, material, spoken) == json.loads((toy / "manifest.json").read_text())["measured"]
    ids = material.joint_batch(recipe.joint_phases[0], 0, (0,))[0]
    lens = lens_logits(model, ids)
    assert torch.equal(lens[-1], model(input_ids=ids[None]).logits[0])
    assert lens.shape[0] == recipe.shape.n_layers + 1
    assert not torch.allclose(lens[-1], lens[-2])


def test_the_lens_of_the_measurement_is_the_lens_of_the_package(toy: Path, material: Material, heard: dict[str, list[Document]]) -> None:
    slm = si.load(toy, dtype=torch.float32)
    ids, words = heard_ids(heard["held_out"][0][0], material)
    with torch.no_grad():
        lens = lens_logits(as_hugging_face(toy), ids)
    _, cache = slm.model.run_with_cache(ids[None])
    for layer in range(TOY.shape.n_layers):
        resid = cache["resid_pre", layer] if layer < TOY.shape.n_layers else cache["resid_post", layer - 1]
        torch.testing.assert_close(slm.model.unembed(slm.model.ln_final(resid))[0], lens[layer], atol=1e-4, rtol=1e-4)
    assert [word.text for word in words] == heard["held_out"][0][0].prompt.text.split()


def test_a_model_that_knows_the_next_word_is_measured_as_one(material: Material, heard: dict[str, list[Document]]) -> None:
    """A stand-in whose every layer shows the first piece of the next word at the last unit of each word and nowhere else."""
    spoken = [one for document in heard["held_out"] for one in document]

    class Knows(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = torch.nn.Module()
            self.model.norm = torch.nn.Identity()
            self.lm_head = torch.nn.Identity()

        def forward(self, input_ids: torch.Tensor, output_hidden_states: bool = False) -> object:
            logits = torch.rand(*input_ids.shape, material.vocabulary.size)
            for one in spoken:
                ids, words = heard_ids(one, material)
                if torch.equal(ids, input_ids[0]):
                    for now, after in pairwise(words):
                        logits[0, now.span.stop - 1, material.speller.whole[after.text][0]] = 9.0

            class Output:
                hidden_states = (logits, logits, logits)

            Output.logits = logits
            return Output()

    measured = measure(Knows(), material, spoken)
    assert measured["next_word_at_last_unit_by_layer"] == [1.0] * 3
    assert measured["next_word_in_span_by_layer"] == [1.0] * 3
    assert measured["next_word_at_last_unit_joint_by_layer"] == [1.0] * 3
    assert measured["current_word_at_last_unit_by_layer"][0] < 0.3
    assert measured["null_at_last_unit_by_layer"][0] < 0.5
    assert measured["words"] == sum(len(heard_ids(one, material)[1]) - 1 for one in spoken)


def test_nothing_to_measure_on_is_refused(toy: Path, material: Material) -> None:
    with pytest.raises(SpeechError, match="no sentence has two words with units"):
        measure(as_hugging_face(toy), material, [])


# -- what ships --------------------------------------------------------------------------------------


def test_an_organism_that_does_not_exist_is_refused() -> None:
    with pytest.raises(CheckpointError, match="No organism 'huge' ships with this package; there are"):
        path("huge")
    with pytest.raises(CheckpointError, match="No recipe 'huge'; there are: .*tiny"):
        train("huge", "nowhere")
    assert not Path("nowhere").exists()


def test_shipped_organisms_are_whole() -> None:
    for name in names():
        folder = path(name)
        assert AcousticQuantiser.load(folder).hash == json.loads((folder / "manifest.json").read_text())["quantiser"]
        sample = read_samples(folder)[0]
        assert sample.prompt.audio(16_000)[1] == sample.words
        assert sum(found.stat().st_size for found in folder.iterdir()) < 8_000_000


@pytest.mark.parametrize("name", names())
def test_a_packaged_organism_is_what_its_recipe_says(name: str) -> None:
    """A recipe that changed after training would tell another story of the weights."""
    folder = path(name)
    manifest = json.loads((folder / "manifest.json").read_text())
    recipe = RECIPES[name]
    assert manifest["recipe"] == json.loads(json.dumps(asdict(recipe)))
    phases = [one for one in (recipe.text_phase, *recipe.joint_phases) if one is not None]
    assert len((folder / "loss.csv").read_text().splitlines()) == 1 + sum(phase.steps for phase in phases)
