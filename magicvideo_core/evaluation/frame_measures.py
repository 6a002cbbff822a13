"""How near an interpolated frame is to the true one: PSNR, SSIM, gradient similarity and flicker, over chosen pixels.

Frames are HWC uint8 RGB; a region is a boolean HW.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

MAX_PSNR_DB = 60.0
_LUMA = (0.299, 0.587, 0.114)


def psnr_db(predicted: np.ndarray, truth: np.ndarray, region_HW: np.ndarray) -> float:
    """PSNR over the region, at most 60 dB."""
    error = predicted.astype(np.float32) - truth.astype(np.float32)
    mse = float((error[region_HW] ** 2).mean())
    return min(MAX_PSNR_DB, 10 * math.log10(255**2 / max(mse, 1e-12)))


def ssim(predicted: np.ndarray, truth: np.ndarray, region_HW: np.ndarray) -> float:
    """Structural similarity of the luma, -1..1, averaged over the region (Wang et al. 2004: Gaussian, sigma 1.5)."""
    x, y = _luma(predicted), _luma(truth)
    line = torch.exp(-0.5 * (torch.arange(-5.0, 6.0) / 1.5) ** 2)
    line = (line / line.sum()).view(1, 1, 1, 11)

    def mean(image_11HW: torch.Tensor) -> torch.Tensor:
        padded = F.pad(image_11HW, (5, 5, 5, 5), mode="reflect")
        return F.conv2d(F.conv2d(padded, line), line.transpose(2, 3))

    mean_x, mean_y = mean(x), mean(y)
    var_x, var_y = mean(x * x) - mean_x**2, mean(y * y) - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    )
    return float(similarity[0, 0][torch.from_numpy(region_HW)].mean())


def gmsd(predicted: np.ndarray, truth: np.ndarray, region_HW: np.ndarray) -> float:
    """Gradient magnitude similarity deviation, 0 is perfect: a perceptual measure that needs no weights.

    Xue et al., "Gradient Magnitude Similarity Deviation" (IEEE TIP 2014): luma at half the resolution, Prewitt gradients, the
    standard deviation of their similarity. What is blurred or torn in places costs more than an even loss.
    """
    kernel = torch.tensor([[1.0, 0.0, -1.0]] * 3) / 3
    kernels = torch.stack([kernel, kernel.T])[:, None]

    def magnitude(frame: np.ndarray) -> torch.Tensor:
        half = F.avg_pool2d(_luma(frame), 2)
        return F.conv2d(F.pad(half, (1, 1, 1, 1), mode="replicate"), kernels).norm(dim=1)[0]

    x, y = magnitude(predicted), magnitude(truth)
    similarity = (2 * x * y + 170) / (x * x + y * y + 170)
    height, width = similarity.shape
    region = torch.from_numpy(region_HW[: 2 * height, : 2 * width].reshape(height, 2, width, 2).any(axis=(1, 3)))
    return float(similarity[region].std(correction=0))


def flicker(predicted_THWC: np.ndarray, truth_THWC: np.ndarray, region_HW: np.ndarray) -> float:
    """Root mean square of the second differences in time against the truth's, 0..255 levels, 0 is perfect.

    Args:
        predicted_THWC: at least three frames in a row, the given ones at both ends.
    """
    bend = np.diff(predicted_THWC.astype(np.float32), n=2, axis=0) - np.diff(truth_THWC.astype(np.float32), n=2, axis=0)
    return float(np.sqrt((bend[:, region_HW] ** 2).mean()))


def _luma(frame_HWC_u8: np.ndarray) -> torch.Tensor:
    return (torch.from_numpy(frame_HWC_u8.astype(np.float32)) @ torch.tensor(_LUMA))[None, None]
