"""FlareTrainer: nnU-Net's steps with a faster network on a CPU, and checkpoints that nnU-Net loads."""

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("nnunetv2")

import flare_train  # noqa: E402
from flare_train.phantom import make_phantom  # noqa: E402
from flare_train.phantom_model import PHASES, main, training_phantoms  # noqa: E402


def test_bfloat16_forward_takes_and_gives_float32_and_keeps_the_weights():
    from flare_train.trainer import compute_in_bfloat16

    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv3d(1, 4, 3, padding=1), torch.nn.Conv3d(4, 2, 1))
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    image = torch.randn(1, 1, 6, 8, 10)
    expected = network(image)
    compute_in_bfloat16(network)
    output = network(image)
    assert output.dtype == torch.float32
    torch.testing.assert_close(output, expected, rtol=0.05, atol=0.05)
    assert not torch.equal(output, expected), "the network still computes in float32"
    assert network.state_dict().keys() == weights.keys()
    assert all(torch.equal(network.state_dict()[name], value) for name, value in weights.items())


def test_bfloat16_forward_converts_every_scale_of_deep_supervision():
    from flare_train.trainer import compute_in_bfloat16

    class TwoScales(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.head = torch.nn.Conv3d(1, 2, 1)

        def forward(self, image):
            return [self.head(image), self.head(image[..., ::2])]

    network = TwoScales()
    compute_in_bfloat16(network)
    full, half = network(torch.randn(1, 1, 4, 4, 4))
    assert full.dtype == half.dtype == torch.float32
    assert half.shape == (1, 2, 4, 4, 2)


def test_training_phantoms_vary_and_cover_the_trunk():
    cases = dict(training_phantoms(3, first_seed=50))
    assert list(cases) == ["phantom_50", "phantom_51", "phantom_52"]
    assert len({phantom.spacing_mm for phantom in cases.values()}) == 3
    for phantom in cases.values():
        depth_mm, height_mm, width_mm = np.multiply(phantom.image.shape, phantom.spacing_mm)
        assert 175 < depth_mm < 305
        assert height_mm == width_mm
        assert 298 < width_mm < 422


def torchvision_imports():
    """Whether the installed torchvision was built for the installed torch."""
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        return False
    return True


@pytest.fixture(scope="module")
def toy_model(tmp_path_factory):
    """The trained-model folder that the command leaves after two iterations of each phase."""
    folder = tmp_path_factory.mktemp("toy")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "nnUNet_n_proc_DA"):
            patch.setenv(name, "")  # so that what the command sets is undone
        sizes = ["--cases", "2", "--epochs", "1", "1", "--iterations", "2", "2"]
        main(["-o", str(folder), *sizes, "--workers", "1", "--augmenters", "0"])
    (model,) = (folder / "nnUNet_results").glob("Dataset*/FlareTrainer__nnUNetPlans__3d_fullres")
    return model


@pytest.mark.slow
def test_the_command_leaves_an_nnunet_model_folder_with_the_plans_of_the_last_phase(toy_model):
    plans = json.loads((toy_model / "plans.json").read_text(encoding="utf-8"))
    assert plans["configurations"]["3d_fullres"]["patch_size"] == list(PHASES[-1].patch)
    assert json.loads((toy_model / "dataset.json").read_text(encoding="utf-8"))["labels"] == {
        "background": 0,
        "lesion": 1,
    }
    checkpoint = torch.load(toy_model / "fold_all/checkpoint_final.pth", map_location="cpu", weights_only=False)
    assert checkpoint["trainer_name"] == "FlareTrainer"
    assert all(value.dtype == torch.float32 for value in checkpoint["network_weights"].values())


@pytest.mark.slow
def test_nnunet_finds_the_trainer_and_predicts_with_its_checkpoint(toy_model, monkeypatch):
    if not torchvision_imports():
        pytest.skip("torchvision does not fit torch, and nnU-Net's search for a trainer imports it")
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    monkeypatch.setenv("nnUNet_extTrainer", str(Path(flare_train.__file__).parent))
    predictor = nnUNetPredictor(use_mirroring=False, perform_everything_on_device=False, device=torch.device("cpu"))
    predictor.initialize_from_trained_model_folder(str(toy_model), ("all",), "checkpoint_final.pth")
    phantom = make_phantom(0, (24, 40, 48), (8.0, 8.0, 8.0))
    image = phantom.image[None].astype(np.float32)
    labels = predictor.predict_single_npy_array(image, {"spacing": list(phantom.spacing_mm)}, None, None, False)
    assert labels.shape == phantom.mask.shape
    assert set(np.unique(labels)) <= {0, 1}
