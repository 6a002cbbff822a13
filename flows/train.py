"""The flow that trains a module of the family, or the whole chain of them."""

from collections.abc import Mapping
from typing import Any

from prefect import flow

from tasks.training import plan_training, train_module


@flow(name="train", flow_run_name="train-{module}", persist_result=False)
def train(
    module: str = "vae",
    output: str = "family",
    base: str | None = None,
    chain: bool = False,
    workers: int = 1,
    options: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """Train `module` into `output`, with `chain` every module after it too; returns the folder of each one's weights.

    `workers` processes share every batch (Ray Train). `options` are further arguments of the module's training: steps,
    seed, data, ... The same arguments again go on from the last checkpoint; what is finished stays as it is.
    """
    requests = plan_training(module, output, base=base, chain=chain, workers=workers, options=options or {})
    return {request.module: train_module(request.module, request) for request in requests}
