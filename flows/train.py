"""The flow that trains a module of the family, or the whole chain of them."""

from prefect import flow

from flows.parameters import Base, Chain, Family, Module, TrainOptions, Workers
from tasks.training import plan_training, train_module


@flow(name="train", flow_run_name="train-{module}", persist_result=False)
def train(
    module: Module = "vae",
    output: Family = "family",
    base: Base = None,
    chain: Chain = False,
    workers: Workers = 1,
    options: TrainOptions = None,
) -> dict[str, str]:
    """Train `module` into `output`, with `chain` every module after it too; returns the folder of each one's weights.

    `workers` processes share every batch (Ray Train). `options` are further arguments of the module's training: steps,
    seed, data, ... The same arguments again go on from the last checkpoint; what is finished stays as it is.
    """
    requests = plan_training(module, output, base=base, chain=chain, workers=workers, options=options or {})
    return {request.module: train_module(request.module, request) for request in requests}
