"""The training loop: it continues where it stopped, ends in averaged weights, and peers end with the same ones."""

import json
import random
import threading
from dataclasses import replace
from types import MappingProxyType

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from magicvideo_core.training.loop import TrainingSettings, run_training
from magicvideo_core.training.peers import PeerAveraging


class LineRecipe:
    """Fits y = 3 x + 1 with noise."""

    learning_rate_scales = MappingProxyType({})

    def __init__(self):
        torch.manual_seed(0)
        self.modules = nn.ModuleDict({"line": nn.Linear(1, 1)})

    def loss(self, rng: random.Random, generator: torch.Generator):
        x = torch.randn(16, 1, generator=generator)
        error = (self.modules["line"](x).float() - 3 * x - 1 - 0.1 * rng.random()).square().mean()
        return error, {"loss": float(error.detach())}

    def save(self, directory):
        save_file(
            {name: each.contiguous() for name, each in self.modules["line"].state_dict().items()}, directory / "w"
        )


def _settings(steps, **changes):
    return TrainingSettings(
        steps, learning_rate=0.05, warmup_steps=1, log_every=10, checkpoint_every=25, bf16=False, **changes
    )


def test_an_interrupted_training_continues_as_if_nothing_had_happened(tmp_path):
    whole = run_training(LineRecipe(), _settings(60, decay_fraction=0.0), tmp_path / "whole")
    parts = run_training(LineRecipe(), _settings(35, decay_fraction=0.0), tmp_path / "parts")
    run_training(LineRecipe(), _settings(60, decay_fraction=0.0), parts)
    expected, got = load_file(whole / "checkpoint.safetensors"), load_file(parts / "checkpoint.safetensors")
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[name], got[name]) for name in expected)


class CurveRecipe(LineRecipe):
    """Fits y = x squared with a network that has one matrix large enough for Muon."""

    def __init__(self):
        torch.manual_seed(0)
        layers = nn.Linear(1, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1)
        self.modules = nn.ModuleDict({"line": nn.Sequential(*layers)})

    def loss(self, rng: random.Random, generator: torch.Generator):
        x = torch.randn(64, 1, generator=generator)
        error = (self.modules["line"](x).float() - x.square()).square().mean()
        return error, {"loss": float(error.detach())}


def test_muon_learns_and_continues_exactly(tmp_path):
    settings = TrainingSettings(
        200, learning_rate=3e-3, log_every=20, checkpoint_every=50, bf16=False, optimizer="muon"
    )
    whole = run_training(CurveRecipe(), settings, tmp_path / "whole")
    parts = run_training(CurveRecipe(), replace(settings, steps=110, decay_fraction=0.0), tmp_path / "parts")
    run_training(CurveRecipe(), settings, parts)
    expected, got = load_file(whole / "checkpoint.safetensors"), load_file(parts / "checkpoint.safetensors")
    assert "optimizer/momentum_buffer/line.2.weight" in expected
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    losses = [json.loads(line)["loss"] for line in (whole / "log.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0] / 8


def test_it_learns_and_stores_the_average(tmp_path):
    stored = load_file(run_training(LineRecipe(), _settings(400, ema_decay=0.9), tmp_path) / "w")
    assert abs(float(stored["weight"]) - 3) < 0.1
    assert abs(float(stored["bias"]) - 1.05) < 0.1


def test_peers_end_with_the_same_weights(tmp_path):
    def peer(rank):
        peers = PeerAveraging(tmp_path / "exchange", rank, 2, interval_s=0.2, timeout_s=30)
        run_training(LineRecipe(), _settings(200, seed=rank), tmp_path / str(rank), peers=peers)

    threads = [threading.Thread(target=peer, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first, second = load_file(tmp_path / "0" / "w"), load_file(tmp_path / "1" / "w")
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert abs(float(first["weight"]) - 3) < 0.3
