"""Training recipes of the embedded family, one module each; they import neither Prefect, Ray nor PyAV."""
