from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import HubertConfig, HubertModel

from slm_interp.audio import Audio
from slm_interp.errors import SpeechError
from slm_interp.speech.acoustic import AcousticQuantiser, AcousticRecipe
from slm_interp.speech.hubert import HubertQuantiser, HubertRecipe, read_centroids
from slm_interp.speech.quantiser import load_quantiser
from tests.speech import real

RECIPE = HubertRecipe(layer=3, n_units=12)


def tiny(**changes):
    """mHuBERT at 25 Hz but for its sizes: the convolutions, their normalisation and the positions are the real kind."""
    settings = {
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "conv_dim": [16] * 8,
        "conv_kernel": [10, 3, 3, 3, 3, 2, 2, 2],
        "conv_stride": [5, 2, 2, 2, 2, 2, 2, 2],
        "num_feat_extract_layers": 8,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
        "initializer_range": 0.3,  # layers of the usual 0.02 differ too little to tell one from the next
    }
    torch.manual_seed(0)
    return HubertModel(HubertConfig(**{**settings, **changes}))


@pytest.fixture(scope="module")
def clip():
    return real.sound("audio1").slice(0.0, 6.0)


@pytest.fixture(scope="module")
def means(clip):
    """k-means of the tiny model's own states, so that every unit occurs."""
    from sklearn.cluster import KMeans

    return KMeans(RECIPE.n_units, n_init=1, random_state=0).fit(literal_states(tiny().eval(), clip, RECIPE.layer))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, means):
    path = tmp_path_factory.mktemp("hubert")
    tiny().save_pretrained(path)
    np.save(path / "centroids.npy", means.cluster_centers_)
    return path


def literal_states(model, audio, layer):
    """slamkit's extraction, spelled out: 40 zeros on both sides, no normalisation, the hidden states of one layer."""
    wave = torch.tensor(np.concatenate([np.zeros(40), audio.samples, np.zeros(40)]), dtype=torch.float32)[None]
    with torch.no_grad():
        return model(wave, output_hidden_states=True).hidden_states[layer][0].numpy()


def literal_units(model, means, audio, layer):
    """Then scikit-learn names the nearest centroid and `groupby` merges repeats."""
    from itertools import groupby

    runs = [(int(unit), len(list(run))) for unit, run in groupby(means.predict(literal_states(model, audio, layer)))]
    return [unit for unit, _ in runs], [length for _, length in runs]


def test_units_and_durations_are_those_of_slamkits_recipe_written_out(folder, means, clip):
    units = HubertQuantiser.load(folder, folder / "centroids.npy", RECIPE).encode(clip)
    wanted_units, wanted_durations = literal_units(tiny().eval(), means, clip, RECIPE.layer)
    assert units.units.tolist() == wanted_units
    assert units.durations.tolist() == wanted_durations
    assert len(set(wanted_units)) > 6
    assert units.frame_s == 0.04
    assert (units.units[1:] != units.units[:-1]).all()


@pytest.mark.parametrize("clip_name", real.CLIPS)
def test_the_convolutions_give_the_real_clips_as_many_frames_as_slamkit_counted(folder, clip_name):
    quantiser = HubertQuantiser.load(folder, folder / "centroids.npy", RECIPE)
    assert len(quantiser.frames(real.sound(clip_name))) == real.units(clip_name).frames == len(real.sound(clip_name).samples) // 640


def test_the_loudness_of_the_sound_matters_as_it_does_without_normalisation(folder, means, clip):
    quantiser = HubertQuantiser.load(folder, folder / "centroids.npy", RECIPE)
    loud = quantiser.features(Audio(clip.samples * np.float32(4), 16_000)).numpy()
    assert np.allclose(loud, literal_states(tiny().eval(), Audio(clip.samples * np.float32(4), 16_000), RECIPE.layer), atol=1e-5)


def test_the_hash_knows_weights_centroids_and_recipe_and_nothing_else(folder, means):
    load = HubertQuantiser.load
    one = load(folder, folder / "centroids.npy", RECIPE)
    assert one.hash == HubertQuantiser(tiny(), means.cluster_centers_, RECIPE).hash
    assert len(one.hash) == 16 and one.encode(real.sound("audio1").slice(0.0, 1.0)).quantiser == one.hash
    other_model = tiny()
    with torch.no_grad():
        other_model.encoder.layers[2].attention.q_proj.weight[0, 0] += 1e-3
    others = [
        HubertQuantiser(tiny(), means.cluster_centers_ + 1e-3, RECIPE),
        load(folder, folder / "centroids.npy", HubertRecipe(layer=2, n_units=12)),
        HubertQuantiser(other_model, means.cluster_centers_, RECIPE),
    ]
    assert len({one.hash, *(other.hash for other in others)}) == 4


def test_centroids_are_read_from_npy_and_safetensors_and_never_from_a_pickle(tmp_path, means):
    centroids = means.cluster_centers_.astype(np.float32)
    np.save(tmp_path / "c.npy", centroids)
    save_file({"centroids": centroids}, tmp_path / "c.safetensors")
    assert np.array_equal(read_centroids(tmp_path / "c.npy"), centroids)
    assert np.array_equal(read_centroids(tmp_path / "c.safetensors"), centroids)
    np.save(tmp_path / "pickled.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(SpeechError, match="cannot be read as an array: Object arrays cannot be loaded"):
        read_centroids(tmp_path / "pickled.npy")
    (tmp_path / "km500.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(SpeechError, match=r"A pickle is not opened here: open it where you trust it"):
        read_centroids(tmp_path / "km500.bin")
    for name in ("c.npy", "c.safetensors"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(SpeechError, match="cannot be read as an array"):
            read_centroids(tmp_path / name)
    np.save(tmp_path / "flat.npy", np.zeros(3))
    with pytest.raises(SpeechError, match=r"matrix of floats \(units, d_model\); .*float64 of shape \(3,\)"):
        read_centroids(tmp_path / "flat.npy")
    with pytest.raises(SpeechError, match="no file of centroids"):
        read_centroids(tmp_path / "nowhere.npy")


def test_a_model_at_another_rate_is_refused():
    fifty = tiny(conv_dim=[16] * 7, conv_kernel=[10, 3, 3, 3, 3, 2, 2], conv_stride=[5, 2, 2, 2, 2, 2, 2], num_feat_extract_layers=7)
    with pytest.raises(
        SpeechError, match=r"steps by 320 samples, 0.02 s at 16000 Hz; the recipe wants frames of 0.04 s.*is this a 50 Hz model"
    ):
        HubertQuantiser(fifty, np.zeros((12, 32)), RECIPE)
    assert HubertQuantiser(fifty, np.zeros((12, 32)), HubertRecipe(layer=3, n_units=12, frame_s=0.02)).sample_rate == 16_000


@pytest.mark.parametrize(
    ("shape", "layer", "said"),
    [
        ((11, 32), 3, r"centroids of shape \(12, 32\) \(units, d_model\); got \(11, 32\)"),
        ((12, 768), 3, r"got \(12, 768\)"),
        ((12, 32), 5, "reads layer 5; the model has hidden states 0 to 4"),
    ],
)
def test_centroids_and_layers_that_do_not_fit_the_model_are_refused(shape, layer, said):
    with pytest.raises(SpeechError, match=said):
        HubertQuantiser(tiny(), np.zeros(shape), HubertRecipe(layer=layer, n_units=12))
    with pytest.raises(SpeechError, match="NaN or infinite"):
        HubertQuantiser(tiny(), np.full((12, 32), np.nan), RECIPE)


def test_a_wrong_rate_and_a_sound_shorter_than_a_frame_are_refused(folder):
    quantiser = HubertQuantiser.load(folder, folder / "centroids.npy", RECIPE)
    with pytest.raises(SpeechError, match=r"needs 16000 Hz audio; got 22050 Hz\. Convert it with resample"):
        quantiser.encode(Audio(np.ones(22050, dtype=np.float32), 22050))
    with pytest.raises(SpeechError, match="One frame takes 640 samples of sound; got 639"):
        quantiser.encode(Audio(np.ones(639, dtype=np.float32), 16_000))
    assert quantiser.encode(Audio(np.ones(640, dtype=np.float32), 16_000)).frames == 1


def test_a_folder_that_lacks_weights_is_refused_and_never_filled_at_random(folder, tmp_path):
    tensors = load_file(folder / "model.safetensors")
    left_out = next(name for name in sorted(tensors) if name.endswith("layers.2.attention.q_proj.weight"))
    save_file(
        {name: tensor for name, tensor in tensors.items() if name != left_out}, tmp_path / "model.safetensors", metadata={"format": "pt"}
    )
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(SpeechError, match=r"lacks 1 weights \(encoder\.layers\.2\.attention\.q_proj\.weight\).*would be random"):
        HubertQuantiser.load(tmp_path, folder / "centroids.npy", RECIPE)


def test_folders_without_a_hubert_model_are_refused(folder, tmp_path):
    with pytest.raises(SpeechError, match=r"there is no config\.json"):
        HubertQuantiser.load(tmp_path, folder / "centroids.npy")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(SpeechError, match="is of type 'bert'; this needs 'hubert'"):
        HubertQuantiser.load(tmp_path, folder / "centroids.npy")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(SpeechError, match="cannot be loaded"):
        HubertQuantiser.load(tmp_path, folder / "centroids.npy")


def test_a_quantiser_is_loaded_by_what_its_folder_says(folder, tmp_path, means):
    (folder / "quantiser.json").write_text(json.dumps({"kind": "hubert", "layer": 3, "n_units": 12}))
    assert load_quantiser(folder).hash == HubertQuantiser.load(folder, folder / "centroids.npy", RECIPE).hash
    recipe = AcousticRecipe(n_units=2)
    acoustic = AcousticQuantiser(recipe, np.zeros((2, 26), dtype=np.float32), np.ones(26, dtype=np.float32))
    acoustic.save(tmp_path)
    assert load_quantiser(tmp_path).hash == acoustic.hash


@pytest.mark.parametrize(
    ("described", "said"),
    [
        ('{"kind": "mimi"}', 'must have "kind": "acoustic" or "hubert"'),
        ("[]", "must be a JSON object"),
        ("{", "is not JSON"),
        ('{"kind": "hubert"}', "found 0 of them"),
        ('{"kind": "hubert", "leyer": 3}', "leyer"),
    ],
)
def test_a_folder_without_a_quantiser_says_what_is_missing(tmp_path, described, said):
    (tmp_path / "quantiser.json").write_text(described)
    if "leyer" in described:
        np.save(tmp_path / "centroids.npy", np.zeros((12, 32)))
    with pytest.raises(SpeechError, match=said):
        load_quantiser(tmp_path)
