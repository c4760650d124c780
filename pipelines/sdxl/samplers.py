"""The two samplers as tables of coefficients, computed on the host in float64 before the loop.

diffusers' scheduler objects give the timesteps and sigmas; their `step` is not used, because it reads tensors on the
host in every step, which stalls a GPU and cannot be captured in a CUDA graph (performance.md §3 row 4).
"""

from dataclasses import dataclass

import torch
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_lcm import LCMScheduler
from torch import Tensor

SIGMA_DATA = 0.5
"""Standard deviation of the data in LCM's boundary conditions; fixed in scheduling_lcm.py."""

ORDER_DROP_BELOW = 15
"""DPM-Solver++ finishes with a first-order step when there are fewer steps than this (lower_order_final)."""


@dataclass(frozen=True)
class LCMTable:
    """Latent Consistency Model sampling (arXiv:2310.04378, Algorithm 3): x' = a·x + b·ε + c·z.

    Args:
        timesteps: (n,) int64. coefficients: (n, 3) float32. Both on the denoising device.
    """

    timesteps: Tensor
    coefficients: Tensor

    def step(self, latents: Tensor, noise: Tensor, i: int, fresh: Tensor | None) -> Tensor:
        """One step from ε = `noise` with fresh noise z; the last step has none."""
        return lcm_step(self.coefficients[i], latents, noise, torch.zeros_like(latents) if fresh is None else fresh)


def lcm_step(coefficients: Tensor, latents: Tensor, noise: Tensor, fresh: Tensor) -> Tensor:
    """The step of one row (3,) of an LCMTable; the last row's c is 0, whatever the fresh noise is."""
    a, b, c = coefficients
    return torch.addcmul(latents * a + noise * b, fresh, c)


def lcm_table(scheduler: LCMScheduler, steps: int, device: torch.device) -> LCMTable:
    """Table for `steps` steps; boundary conditions c_skip and c_out as in scheduling_lcm.py (instantid.md §A8)."""
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps.to("cpu", torch.int64)
    alphas = scheduler.alphas_cumprod.double()[timesteps]
    scaled = timesteps.double() * scheduler.config["timestep_scaling"]
    variance = SIGMA_DATA**2
    c_skip, c_out = variance / (scaled**2 + variance), scaled / (scaled**2 + variance).sqrt()
    x = c_out / alphas.sqrt() + c_skip
    noise = -c_out * (1 - alphas).sqrt() / alphas.sqrt()
    following = torch.cat([alphas[1:], alphas.new_ones(1)])
    rows = torch.stack([following.sqrt() * x, following.sqrt() * noise, (1 - following).sqrt()], 1)
    return LCMTable(timesteps.to(device), rows.float().to(device))


@dataclass(frozen=True)
class DPMTable:
    """DPM-Solver++ 2M, midpoint (arXiv:2211.01095, Algorithm 2): x0 = p·x + q·ε; x' = a·x + b·x0 + c·(previous x0).

    Args:
        timesteps: (n,) int64. coefficients: (n, 5) float32 rows (p, q, a, b, c); c is 0 in first-order steps.
    """

    timesteps: Tensor
    coefficients: Tensor

    def step(self, latents: Tensor, noise: Tensor, i: int, previous: Tensor) -> tuple[Tensor, Tensor]:
        """One step; returns the new latents and this step's x0, the next step's `previous`."""
        return dpm_step(self.coefficients[i], latents, noise, previous)


def dpm_step(coefficients: Tensor, latents: Tensor, noise: Tensor, previous: Tensor) -> tuple[Tensor, Tensor]:
    """The step of one row (5,) of a DPMTable."""
    p, q, a, b, c = coefficients
    predicted = latents * p + noise * q
    return latents * a + predicted * b + previous * c, predicted


def dpm_table(scheduler: DPMSolverMultistepScheduler, steps: int, device: torch.device) -> DPMTable:
    """Table for `steps` steps, second order with a first-order start (and end, below 15 steps; pulid.md §A9)."""
    scheduler.set_timesteps(steps)
    sigmas = scheduler.sigmas.double()
    alpha = 1 / (sigmas**2 + 1).sqrt()
    spread = sigmas * alpha
    rows = []
    for i in range(steps):
        first_order = i == 0 or (i == steps - 1 and (steps < ORDER_DROP_BELOW or sigmas[-1] == 0))
        ratio = spread[i + 1] / spread[i]
        # -alpha·(exp(-h) - 1), with exp(-h) = (spread'/alpha') / (spread/alpha); finite also where sigma ends at 0
        gain = alpha[i + 1] * (1 - sigmas[i + 1] / sigmas[i])
        previous = 0.0 if first_order else -0.5 * gain * half_steps(sigmas, i)
        rows.append([1 / alpha[i], -spread[i] / alpha[i], ratio, gain - previous, previous])
    table = torch.tensor([[float(x) for x in row] for row in rows], dtype=torch.float64)
    return DPMTable(scheduler.timesteps.to(device, torch.int64), table.float().to(device))


def half_steps(sigmas: Tensor, i: int) -> Tensor:
    """1/r0 = h / h_previous, steps measured in log-SNR λ = −log σ (the alphas cancel)."""
    return (sigmas[i] / sigmas[i + 1]).log() / (sigmas[i - 1] / sigmas[i]).log()
