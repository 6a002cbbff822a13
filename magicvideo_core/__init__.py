"""The library of MagicVideo: configuration, storage, manifests, media, models, stages; usable without Prefect or Ray."""
