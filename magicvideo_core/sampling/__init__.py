"""The denoising loop, classifier-free guidance and the latent noise prior, over any diffusers scheduler."""
