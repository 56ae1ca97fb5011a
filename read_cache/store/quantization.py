"""The calibration that turns stored values of the first stack back into states; fixed before the first part."""

import dataclasses

import numpy as np

RMS_EPSILON = 1e-6
"""Added to the mean square of a state before its root is taken."""
DEVIATION_FLOOR = 0.02
"""bf16 leaves 0.002 of noise on a state of unit size: a channel's deviation below this is not scaled up."""


@dataclasses.dataclass(frozen=True)
class Calibration:
    """The `calibration/…` arrays of `store/schema.py`, float32: L+1 states kept, D channels, k components."""

    mean: np.ndarray
    """[L+1, D]"""
    deviation: np.ndarray
    """[L+1, D]"""
    scale: np.ndarray
    """[L+1, D], or [L+1, k] where states are projected."""
    basis: np.ndarray | None = None
    """[L+1, k, D]; None where whole states are stored."""

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays by name, without those that are None."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def of(self, states: slice | list[int]) -> "Calibration":
        """Return the calibration of some states only."""
        return Calibration(**{name: value[states] for name, value in self.arrays().items()})
