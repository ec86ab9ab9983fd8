# SPDX-License-Identifier: Apache-2.0
"""How a class of a bundle is described in DICOM-SEG."""

from __future__ import annotations

import highdicom as hd
from deployed_bundle import DeployedBundle
from monai.deploy.operators.dicom_seg_writer_operator import SegmentDescription
from pydicom.sr.coding import Code

from monai_segdiff.io import SegmentCode

__all__ = ["CodedSegment"]


class CodedSegment(SegmentDescription):
    """The SDK's description with two additions: the modifier of the type, and the hash of the weights.

    Args:
        segment: codes of the class.
        bundle: what segments.
    """

    def __init__(self, segment: SegmentCode, bundle: DeployedBundle) -> None:
        super().__init__(
            segment_label=segment.label,
            segmented_property_category=Code(*segment.category),
            segmented_property_type=Code(*segment.type),
            algorithm_name=bundle.name[:64],
            algorithm_version=bundle.version,
            anatomic_regions=[Code(*segment.region)] if segment.region else None,
        )
        self.modifier = segment.modifier
        self.parameters = f"weights_sha256={bundle.weights_sha256}"

    def to_segment_description(self, segment_number: int) -> hd.seg.SegmentDescription:
        """Describe the class with this number.

        Args:
            segment_number: from 1.
        """
        description = super().to_segment_description(segment_number)
        if self.modifier:
            [kind] = description.SegmentedPropertyTypeCodeSequence
            kind.SegmentedPropertyTypeModifierCodeSequence = [hd.sr.CodedConcept(*self.modifier)]
        [algorithm] = description.SegmentationAlgorithmIdentificationSequence
        algorithm.AlgorithmParameters = self.parameters
        return description
