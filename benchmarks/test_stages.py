"""Each stage beside what it replaces, on the same data in the same run."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import zoom
from skimage.transform import resize

from flare_phantom.phantom import Phantom, make_phantom, write_case
from flare_runtime.compute.arrays import FloatArray
from flare_runtime.imaging.read import read_volume
from flare_runtime.imaging.write import write_mask
from flare_runtime.model.manifest import Resampling
from flare_runtime.pipeline.decoding import Decoder
from flare_runtime.pipeline.resampling import Resizing, resize_image
from flare_runtime.pipeline.restoring import restore
from flare_runtime.pipeline.tiling import Blend, TileGrid

SHAPE, SPACING = (100, 512, 512), (2.5, 0.8, 0.8)
COARSE, COARSE_SPACING = (104, 256, 256), (2.4, 1.6, 1.6)
PATCH = (64, 96, 96)


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return make_phantom(1, SHAPE, SPACING)


@pytest.fixture(scope="module")
def files(phantom: Phantom, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("case")
    write_case(phantom, folder / "image.nii.gz", folder / "label.nii.gz")
    return folder


@pytest.fixture(scope="module")
def scores() -> FloatArray:
    """Lesion-like scores: positive in a few blobs."""
    coarse = np.random.default_rng(0).standard_normal((8, 12, 12))
    smooth = zoom(coarse, [n / m for n, m in zip(COARSE, coarse.shape, strict=True)], order=1)
    return np.ascontiguousarray((smooth - 2.0)[None], np.float32)


@pytest.mark.benchmark(group="resample the image")
class TestResample:
    def test_flare(self, benchmark, phantom: Phantom) -> None:
        resizing = Resizing.between(SHAPE, COARSE, SPACING, COARSE_SPACING, Resampling(order=3))
        out = np.empty(COARSE, np.float32)

        def read(axis: int, part: slice) -> FloatArray:
            return np.moveaxis(np.moveaxis(phantom.image, axis, 0)[part].astype(np.float32), 0, axis)

        benchmark(resize_image, read, resizing, out)

    def test_skimage_reference(self, benchmark, phantom: Phantom) -> None:
        image = phantom.image.astype(float)
        benchmark.pedantic(resize, (image, COARSE, 3), {"mode": "edge", "anti_aliasing": False}, rounds=1)


@pytest.mark.benchmark(group="restore the mask")
class TestRestore:
    def test_flare(self, benchmark, scores: FloatArray) -> None:
        resizing = Resizing.between(COARSE, SHAPE, COARSE_SPACING, SPACING, Resampling(order=1))
        benchmark(lambda: restore(scores, resizing, Decoder(2), np.zeros(SHAPE, np.uint8)))

    def test_skimage_reference(self, benchmark, scores: FloatArray) -> None:
        def reference() -> None:
            logits = np.stack([-scores[0] / 2, scores[0] / 2]).astype(float)
            fine = [resize(channel, SHAPE, 1, mode="edge", anti_aliasing=False) for channel in logits]
            np.argmax(fine, axis=0)

        benchmark.pedantic(reference, rounds=1)


@pytest.mark.benchmark(group="blend the tiles")
class TestBlend:
    def test_flare(self, benchmark) -> None:
        grid = TileGrid.covering(COARSE, PATCH, 0.5)
        tile = np.ones((1, *PATCH), np.float32)

        def blend() -> None:
            sums = Blend(1, COARSE, grid)
            for box in grid:
                sums.add(box, tile.copy())
            sums.mean()

        benchmark(blend)

    def test_nnunet_reference(self, benchmark) -> None:
        torch = pytest.importorskip("torch")
        sliding = pytest.importorskip("nnunetv2.inference.sliding_window_prediction")
        grid = TileGrid.covering(COARSE, PATCH, 0.5)
        tile = torch.ones((2, *PATCH))

        def blend() -> None:
            weight = sliding.compute_gaussian(PATCH, 1 / 8, 10, device=torch.device("cpu"))
            sums, counts = torch.zeros((2, *COARSE), dtype=torch.half), torch.zeros(COARSE, dtype=torch.half)
            for box in grid:
                sums[(slice(None), *box)] += tile.clone() * weight
                counts[box] += weight
            torch.div(sums, counts, out=sums)

        benchmark(blend)


@pytest.mark.benchmark(group="read the image")
class TestRead:
    def test_flare(self, benchmark, files: Path) -> None:
        benchmark(read_volume, files / "image.nii.gz")

    def test_simpleitk_reference(self, benchmark, files: Path) -> None:
        sitk = pytest.importorskip("SimpleITK")
        benchmark(lambda: sitk.GetArrayFromImage(sitk.ReadImage(str(files / "image.nii.gz"))).astype(np.float32))

    def test_gzip_floor(self, benchmark, files: Path) -> None:
        benchmark(lambda: gzip.decompress((files / "image.nii.gz").read_bytes()))


@pytest.mark.benchmark(group="write the mask")
class TestWrite:
    def test_flare(self, benchmark, files: Path, phantom: Phantom) -> None:
        template = read_volume(files / "label.nii.gz").template
        benchmark(write_mask, files / "out.nii.gz", phantom.mask, template)

    def test_nibabel_reference(self, benchmark, files: Path, phantom: Phantom) -> None:
        image = nib.Nifti1Image(phantom.mask.transpose(), np.eye(4))
        benchmark(nib.save, image, files / "reference.nii.gz")
