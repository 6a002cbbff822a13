"""The denoising loop, guidance and the latent noise prior."""
