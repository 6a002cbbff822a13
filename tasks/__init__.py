"""What is retried and where it runs: Prefect tasks and the Ray pools under them."""
