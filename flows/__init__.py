"""Order and policy: the Prefect flows and the command line."""
