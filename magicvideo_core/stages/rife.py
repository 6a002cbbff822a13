"""The VFI stage, backend `rife`: public RIFE weights for real footage, in the same stage as our own interpolator."""

from __future__ import annotations

from magicvideo_core.config.weights import EMBEDDED, resolve_weights
from magicvideo_core.errors import WeightsError
from magicvideo_core.models.rife import load_rife
from magicvideo_core.stages.vfi import VFIStage


class RifeStage(VFIStage):
    """As `VFIStage`, cuts and batches included."""

    def load(self, device: str) -> None:
        """Load the network onto `device`. Raises WeightsError."""
        weights = self.settings.weights
        reference = resolve_weights(weights, "vfi", revision=self.settings.revision) if weights != EMBEDDED else None
        if reference is None or reference.path is None:
            raise WeightsError(
                f"vfi.weights = {weights!r}: backend rife reads a local file of RIFE 4.24, 4.25 or 4.26, such as flownet.pkl."
            )
        self._model = load_rife(reference.path).to(device)
