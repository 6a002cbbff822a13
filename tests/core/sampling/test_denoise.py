"""The denoising loop: guidance, where it starts, and the latent noise prior in every scheduler's own scaling."""

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler

from magicvideo_core.models.tiny import build_scheduler
from magicvideo_core.sampling.denoise import denoise, guided, in_scheduler_scale, noised, prior_noise, set_timesteps

SCHEDULERS = {
    "tiny": build_scheduler,
    "ddim": lambda: DDIMScheduler(prediction_type="sample", clip_sample=False),
    "dpm": lambda: DPMSolverMultistepScheduler(prediction_type="sample"),
    "euler": lambda: EulerDiscreteScheduler(prediction_type="sample"),
}


@pytest.fixture(params=SCHEDULERS)
def scheduler(request):
    return SCHEDULERS[request.param]()


def test_a_perfect_network_gives_its_image(scheduler):
    truth = torch.linspace(-1, 1, 16).view(1, 1, 4, 4)
    timesteps = set_timesteps(scheduler, 8)
    start = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * scheduler.init_noise_sigma
    result = denoise(lambda latents, timestep: truth, start, scheduler, timesteps)
    assert torch.allclose(result, truth, atol=0.05)


def test_a_late_start_visits_only_the_timesteps_below_it(scheduler):
    everything = set_timesteps(scheduler, 10)
    late = set_timesteps(scheduler, 10, start_timestep=500)
    assert late.tolist() == [each for each in everything.tolist() if each <= 500]
    assert len(set_timesteps(scheduler, 10, start_timestep=0)) == 1


def test_sdedit_keeps_what_little_noise_does_not_hide(scheduler):
    clean = torch.full((1, 1, 4, 4), 0.7)
    timesteps = set_timesteps(scheduler, 10, start_timestep=200)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    start = noised(clean, noise, scheduler, timesteps[0])
    seen = []
    denoise(lambda latents, timestep: seen.append(latents) or clean, start, scheduler, timesteps)
    assert float((seen[0] - clean).abs().mean()) < 0.6


def test_guidance_moves_away_from_the_unconditional_half():
    predict = guided(lambda x, t: torch.tensor(3.0), lambda x, t: torch.tensor(1.0), 4.0)
    assert float(predict(torch.zeros(1), torch.tensor(0))) == 9.0
    conditional = lambda x, t: torch.tensor(3.0)
    assert guided(conditional, lambda x, t: torch.tensor(1.0), 1.0) is conditional


def test_the_prior_moves_the_mean_and_keeps_the_variance(scheduler):
    reference = torch.full((1, 2, 8, 8), 2.0)
    noise = torch.randn(1, 2, 6, 8, 8, generator=torch.Generator().manual_seed(1))
    latents = prior_noise(reference, noise, scheduler, prior_timestep=850, decay=0.5)
    lambda_0 = float(scheduler.alphas_cumprod[850]) ** 0.5
    for frame in range(6):
        weight = lambda_0 * 0.5**frame
        expected = weight * reference + (1 - weight**2) ** 0.5 * noise[:, :, frame]
        assert torch.allclose(latents[:, :, frame], expected, atol=1e-4)
    assert torch.equal(prior_noise(reference, noise, scheduler, prior_timestep=0), noise)


def test_starting_latents_come_in_the_schedulers_scale(scheduler):
    noise = torch.randn(1, 2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    set_timesteps(scheduler, 10)
    scaled = in_scheduler_scale(noise, scheduler)
    assert torch.allclose(scaled / float(scheduler.init_noise_sigma), noise, atol=1e-3)
