"""Makes series of DICOM files as scanners and archives do, and as they should not."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

AXIAL = (1, 0, 0, 0, 1, 0)
SIDE = 40


@dataclass
class Series:
    """How the slices of a series are to be; a test changes what it is about.

    Attributes:
        count: of slices, each `step_mm` from the one before along `way` from `origin_mm`, in LPS axes.
        orientation: of rows and columns.
        change: is called with every slice's data set and its index before it is written.
    """

    count: int = 12
    step_mm: float = 3.0
    spacing_mm: Sequence[float] = (2.0, 1.5)
    origin_mm: Sequence[float] = (-20.0, -30.0, 100.0)
    orientation: Sequence[float] = AXIAL
    way: Sequence[float] | None = None
    intercept: float = -1024.0
    slope: float = 1.0
    modality: str = "CT"
    sop_class: UID = CTImageStorage
    number: int = 3
    uid: str = field(default_factory=generate_uid)
    change: Callable[[Dataset, int], Any] = lambda dataset, index: None

    def places(self) -> list[Any]:
        """Return where the first pixels of the slices lie."""
        rows, columns = np.reshape(self.orientation, (2, 3))
        way = np.cross(rows, columns) if self.way is None else np.asarray(self.way)
        return [np.asarray(self.origin_mm) + index * self.step_mm * way for index in range(self.count)]

    def pixels(self) -> Any:
        """Return voxels (z, y, x) of an ellipsoid of tissue in air, with noise, as stored."""
        z, y, x = np.indices((self.count, SIDE, SIDE + 4))
        inside = ((y - 11) / 8) ** 2 + ((x - 14) / 9) ** 2 + ((z - self.count / 2) / (self.count * 0.6)) ** 2 < 1
        noise = np.random.default_rng(self.number).integers(-15, 15, inside.shape)
        hounsfield = np.where(inside, 40, -1000) + noise
        return np.round((hounsfield - self.intercept) / self.slope).astype(np.int16)

    def datasets(self) -> list[Dataset]:
        """Return the slices as data sets."""
        voxels = self.pixels()
        return [self._dataset(index, place, voxels[index]) for index, place in enumerate(self.places())]

    def _dataset(self, index: int, place: Any, pixels: Any) -> Dataset:
        dataset = header(self)
        dataset.InstanceNumber = index + 1
        dataset.ImagePositionPatient = list(map(float, place))
        dataset.ImageOrientationPatient = list(map(float, self.orientation))
        dataset.PixelSpacing = list(map(float, self.spacing_mm))
        dataset.SliceThickness = abs(float(self.step_mm))
        dataset.RescaleSlope, dataset.RescaleIntercept = self.slope, self.intercept
        dataset.set_pixel_data(pixels, "MONOCHROME2", 16)
        self.change(dataset, index)
        return dataset

    def write(self, folder: Path, names: str = "IM{:04d}") -> Path:
        """Write the slices into a folder, which is made, and return it."""
        folder.mkdir(parents=True, exist_ok=True)
        for index, dataset in enumerate(self.datasets()):
            dataset.save_as(folder / names.format(index), enforce_file_format=True)
        return folder


def header(series: Series) -> Dataset:
    """Return a data set of a series that says nothing of place and pixels."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = series.sop_class
    dataset.SOPInstanceUID = generate_uid()
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.PatientName, dataset.PatientID, dataset.PatientSex = "Secret^Patient", "123", "F"
    dataset.SeriesInstanceUID, dataset.StudyInstanceUID = series.uid, generate_uid(entropy_srcs=[series.uid])
    dataset.FrameOfReferenceUID = generate_uid(entropy_srcs=[series.uid, "frame"])
    dataset.SeriesNumber, dataset.Modality = series.number, series.modality
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    return dataset


def enhanced(series: Series, path: Path) -> Path:
    """Write the slices of a series as the frames of one enhanced multi-frame file, the last one first."""
    series.sop_class = EnhancedCTImageStorage
    dataset, places, voxels = header(series), series.places()[::-1], series.pixels()[::-1]
    shared, measures, orientation = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = list(series.spacing_mm), series.step_mm
    orientation.ImageOrientationPatient = list(series.orientation)
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    dataset.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for place in places:
        frame, position, scale = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = list(map(float, place))
        scale.RescaleSlope, scale.RescaleIntercept, scale.RescaleType = series.slope, series.intercept, "HU"
        frame.PlanePositionSequence, frame.PixelValueTransformationSequence = [position], [scale]
        frames.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = frames
    dataset.set_pixel_data(voxels, "MONOCHROME2", 16)
    dataset.save_as(path, enforce_file_format=True)
    return path


def check_as_simpleitk(folder: Path, volume):
    """Compare voxels, spacing, origin and directions with those of SimpleITK's reader of series."""
    import SimpleITK as sitk

    image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    assert np.array_equal(volume.intensities(volume.voxels), sitk.GetArrayFromImage(image))
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    affine[:2] *= -1
    assert np.allclose(volume.geometry.affine, affine, atol=1e-4)
