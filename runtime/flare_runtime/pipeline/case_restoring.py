"""From the scores of a prepared case to labels and probabilities on the grid of its images."""

from dataclasses import dataclass

import numpy as np

from flare_runtime.compute.arrays import AnyArray, FloatArray, MaskArray
from flare_runtime.compute.device import Device
from flare_runtime.imaging.orientation import Turn
from flare_runtime.model.manifest import Manifest
from flare_runtime.pipeline.case_stages import PreparedCase
from flare_runtime.pipeline.decoding import Decoder
from flare_runtime.pipeline.label_probabilities import RowSums
from flare_runtime.pipeline.preprocessing import Prepared
from flare_runtime.pipeline.probability_maps import CoarseScores, ProbabilityMaps, unseen_boxes
from flare_runtime.pipeline.resampling import Resizing
from flare_runtime.pipeline.restoring import restore, restore_probabilities


@dataclass(frozen=True)
class CaseRestoring:
    """The scores of a case, and the way back.

    Attributes:
        manifest: the model.
        decoder: says what the scores mean.
        prepared: the case.
        scores: (channels, z, y, x) of the whole prepared image.
        device: where the scores are.
    """

    manifest: Manifest
    decoder: Decoder
    prepared: Prepared
    scores: FloatArray
    device: Device

    def labels(self, mask: MaskArray, turn: Turn) -> RowSums:
        """Write the labels into a mask (z, y, x) of zeros on the grid of the images; return its rows."""

        def part(array: AnyArray) -> AnyArray:
            return turn.view(array).transpose(self.manifest.transpose_forward)[self.prepared.crop]

        inner = self.prepared.inner.cut(self.scores)
        rows = restore(inner, self._resizing, self.decoder, part(mask), self.device)
        # Arrays that say of each voxel of the mask where it lies, and take no memory.
        z, y, x = (part(axis)[rows.places] for axis in np.broadcast_arrays(*np.ogrid[tuple(map(slice, mask.shape))]))
        return RowSums((z, y, x), rows.sums)

    def probabilities(self, probabilities: FloatArray) -> None:
        """Write the probabilities into (outputs, z, y, x) on the grid that was prepared."""
        prepared = self.prepared
        axes = (0, *(axis + 1 for axis in self.manifest.transpose_forward))
        target = prepared.crop.cut(probabilities.transpose(axes))
        restore_probabilities(prepared.inner.cut(self.scores), self._resizing, self.decoder, target, self.device)
        for box in unseen_boxes(prepared.region, prepared.inner, prepared.crop.shape):
            box.cut(target)[...] = self.decoder.background(box.shape)

    def maps(self, case: PreparedCase, *, on_input: bool) -> ProbabilityMaps:
        """Return the probabilities as maps, on the grid of the images or else on the network's."""
        manifest, prepared, inner = self.manifest, self.prepared, self.prepared.inner
        geometry, resizing = case.template.geometry, self._resizing
        if not on_input:
            spacing = prepared.spacing_mm
            resizing = Resizing.between(inner.shape, inner.shape, spacing, spacing, manifest.logits_resampling)
            geometry = prepared.geometry.resampled(inner.shape)

        def part(whole: AnyArray) -> AnyArray:
            if not on_input:
                return whole
            return case.turn.view(whole).transpose(manifest.transpose_forward)[prepared.crop]

        unseen = unseen_boxes(prepared.region, inner, resizing.new_shape)
        coarse = CoarseScores(inner.cut(self.scores), resizing, self.device, part, unseen)
        return ProbabilityMaps(self.decoder, geometry, coarse)

    @property
    def _resizing(self) -> Resizing:
        manifest, prepared = self.manifest, self.prepared
        old, new = prepared.inner.shape, prepared.crop.shape
        spacing = manifest.grid_spacing_mm(prepared.spacing_mm)
        return Resizing.between(old, new, spacing, prepared.spacing_mm, manifest.logits_resampling)
