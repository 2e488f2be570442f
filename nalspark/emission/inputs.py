"""What a run of the emission programme is given: frames, and a trained selection, each opened once."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from nalspark.emission.frames import CUTOUT_SHAPE, PLANES, significance_frame
from nalspark.emission.inject import parametric_frame
from nalspark.emission.settings import EmissionSettings
from nalspark.errors import NalsparkError, UnusableSpectrum
from nalspark.learning.ensemble import FittedSecondStage, read_second_stage
from nalspark.learning.models import PackedModel, read_model
from nalspark.pipeline.learning import MODEL
from nalspark.tables.manifest import digest
from nalspark.tables.table import Table

#: What a model of this programme is for, as its card says it.
GRID, SPECIES = "VIRUS cut-outs 9 x 32, 2 Angstrom", "emission line"
#: Beside the network in the directory of a training.
SECOND_STAGE = Table("second_stage", "The files of a second-stage classifier, and its judgement.", ())


@dataclass(frozen=True)
class Selection:
    """A trained selection: the network, and the second-stage classifier that was fitted to its scores."""

    packed: PackedModel
    second: FittedSecondStage

    @property
    def digest(self) -> str:
        """What stands for it among the causes of what it classifies."""
        return digest(self.packed.digest, self.second.card.model_dump(mode="json"))


def read_network(folder: str | Path) -> PackedModel:
    """Read the network in a directory that a training wrote.

    Raises
    ------
    ModelError
        Where there is none, it is damaged, or it was trained for something else.
    """
    packed = read_model(Path(folder) / MODEL.name)
    packed.check(GRID, SPECIES, {PLANES: CUTOUT_SHAPE})
    return packed


def read_selection(folder: str | Path) -> Selection:
    """Read the selection in a directory that a training wrote.

    Raises
    ------
    ModelError
        Where the network or the second-stage classifier is missing or damaged, or the two do not belong together.
    """
    packed, second = read_network(folder), read_second_stage(Path(folder) / SECOND_STAGE.name)
    second.check(packed.digest)
    return Selection(packed, second)


class Inputs:
    """Frames and a trained selection, each read, and hashed, once.

    Parameters
    ----------
    settings : EmissionSettings
    folder : path
        Where the selection lies, or will lie: a stage that reads it comes after those that make it.
    """

    def __init__(self, settings: EmissionSettings, folder: str | Path) -> None:
        self.settings, self.folder = settings, folder

    @cached_property
    def frames(self) -> dict[str, np.ndarray]:
        """Name → significances (f, p) of the frames; a parametric one where the settings name none.

        Raises
        ------
        NalsparkError
            Where a frame cannot be used.
        """
        paths = self.settings.emission.frames
        try:
            return {path.rpartition("/")[2]: significance_frame(path)[0] for path in paths} or {"parametric": parametric_frame()}
        except UnusableSpectrum as error:
            raise NalsparkError(f"A frame of emission.frames cannot be used: {error.detail}") from None

    @cached_property
    def frame_digests(self) -> dict[str, str]:
        """Name → digest of the significances."""
        return {name: hashlib.sha256(np.ascontiguousarray(frame).data).hexdigest() for name, frame in self.frames.items()}

    @cached_property
    def selection(self) -> Selection:
        """The network with its second-stage classifier."""
        return read_selection(self.folder)
