"""Ablations: what is computed and what is taken from before, what a variant changes, and when a claim is said to hold."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from magicvideo_core.config import RunConfig, load_config
from magicvideo_core.config.weights import EMBEDDED_FOLDER
from magicvideo_core.errors import InputError, WeightsError
from magicvideo_core.evaluation.ablation_tables import (
    ablations_json,
    ablations_markdown,
    ablations_svg,
    difference,
    judge_claim,
)
from magicvideo_core.evaluation.ablations import (
    VariantVerdict,
    ablation_clips,
    resolve_ablations,
    run_ablations,
)
from magicvideo_core.evaluation.variants import (
    BASELINE,
    CLAIMS,
    JOINT_TRAINING_OFF,
    VARIANTS,
    choose_variants,
)
from magicvideo_core.storage import Storage

# Sizes at which the oracle finds the object: where it does not, every variant gets the same verdict.
_FEW_STEPS = (
    "t2i.num_inference_steps=10", "t2i.refine_num_inference_steps=5", "i2v.num_inference_steps=6",
    "v2v.num_inference_steps=4", "i2v.num_frames=4", "v2v.num_frames=4",
)  # fmt: skip


def _run(
    storage: Storage, config: Sequence[str], names: Sequence[str], count: int = 2, stop_after: int | None = None
) -> list[VariantVerdict]:
    calls = Counter[str]()

    def on_clip(done: int, total: int, part: str) -> None:
        calls[part] += 1
        if stop_after is not None and part != "references" and calls.total() - calls["references"] == stop_after:
            raise KeyboardInterrupt

    ablations, _ = resolve_ablations(
        choose_variants(names), lambda changes: load_config("tiny", None, (*config, *changes))
    )
    return list(run_ablations(storage, ablation_clips(count), ablations, on_clip))


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    fake = [
        part
        for stage in ("t2i", "i2v", "v2v")
        for part in (f"{stage}.backend=fake", f"{stage}.fake.trace_file={trace}")
    ]
    storage, names = Storage(tmp_path / "out"), ["no-controlnet", "v2v-no-reference", "bicubic"]
    with pytest.raises(KeyboardInterrupt):
        _run(storage, fake, names, stop_after=3)
    verdicts = _run(storage, fake, names)
    assert [each.variant.name for each in verdicts] == [BASELINE, *names]
    # T2I once; I2V for the baseline and where it changes; V2V everywhere but where it is left out.
    assert Counter(line.split()[0] for line in trace.read_text().splitlines()) == {"t2i": 2, "i2v": 4, "v2v": 6}
    before = trace.read_text()
    again = _run(storage, fake, names)
    assert trace.read_text() == before
    assert ablations_json(again) == ablations_json(verdicts)
    # A torn verdict is made again, from the keyframes that are there.
    key = next(key for key in storage.list("verdicts") if "v2v-no-reference" in key)
    storage.write(key, b"{")
    assert ablations_json(_run(storage, fake, names)) == ablations_json(verdicts)
    assert Counter(line.split()[0] for line in trace.read_text().splitlines()) == {"t2i": 2, "i2v": 4, "v2v": 7}


def test_conditionings_can_be_switched_off_on_real_models(tmp_path: Path) -> None:
    verdicts = _run(Storage(tmp_path), _FEW_STEPS, ["no-reference", "v2v-no-reference"], count=1)
    assert not any(each.failed for each in verdicts)
    baseline, nothing, keyframes_alone = (each.values for each in verdicts)
    assert baseline["i2v"] == keyframes_alone["i2v"]
    assert baseline["v2v"] != keyframes_alone["v2v"]
    for stage in ("i2v", "v2v"):
        shown, unseen = (next(iter(values[stage].values()))["first_frame_psnr"] for values in (baseline, nothing))
        assert shown is not None and unseen is not None and shown > unseen + 3


def test_a_clip_that_fails_is_counted_and_compared_nowhere(tmp_path: Path) -> None:
    fake = [f"{stage}.backend=fake" for stage in ("t2i", "i2v", "v2v")]
    prompts = [clip.prompt.split() for clip in ablation_clips(2)]
    word = next(word for word in prompts[0] if word not in prompts[1])
    verdicts = _run(Storage(tmp_path), [*fake, f"v2v.fake.faults.{word}=clip_error"], ["bicubic"])
    assert [len(each.failed) for each in verdicts] == [1, 0]
    found = difference(verdicts[0].values["v2v"], verdicts[1].values["v2v"], "background")
    assert found is not None and found.count == 1
    assert "1 clips of variant baseline failed" in ablations_markdown(verdicts, "title")


def test_a_variant_that_is_the_baseline_is_said_to_be() -> None:
    def load(changes: Sequence[str]) -> RunConfig:
        return load_config("tiny", None, ("i2v.noise_prior_timestep=600", *changes))

    ablations, same = resolve_ablations(choose_variants(["noise-prior-600", "noise-prior-800"]), load)
    assert [each.variant.name for each in ablations] == [BASELINE, "noise-prior-800"]
    assert [each.name for each in same] == ["noise-prior-600"]


def test_every_variant_changes_the_configuration_and_every_claim_has_its_variant() -> None:
    ablations, _ = resolve_ablations(
        choose_variants(weights=EMBEDDED_FOLDER), lambda changes: load_config("tiny", None, changes)
    )
    assert ablations[0].variant.name == BASELINE and len(ablations) >= len(VARIANTS)
    assert len({each.name for each in VARIANTS}) == len(VARIANTS)
    assert (
        len({each.folder for each in ablations}) == len({each.recipes["final"] for each in ablations}) == len(ablations)
    )
    assert {claim.variant for claim in CLAIMS} <= {each.name for each in VARIANTS} | {JOINT_TRAINING_OFF}
    family = ablations[-1].config
    assert family.v2v.motion_adapter == str(EMBEDDED_FOLDER / "v2v" / "motion_adapter")
    assert family.t2i.weights == "tiny"


def test_unknown_variants_and_incomplete_families_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no variant 'frozen': choose from baseline"):
        choose_variants(["frozen"])
    with pytest.raises(InputError, match="needs --weights"):
        choose_variants([JOINT_TRAINING_OFF])
    with pytest.raises(WeightsError, match="lacks t2i"):
        choose_variants(weights=tmp_path)


def _verdict(name: str, textures: list[bool], contrast: float) -> VariantVerdict:
    verdict = VariantVerdict(next(each for each in VARIANTS if each.name == name))
    for number, texture in enumerate(textures):
        spread = 0.01 * (number % 5)
        verdict.values["v2v"][f"{number:03}"] = {
            "texture": texture,
            "shape": True,
            "all": texture,
            "texture_of_truth": contrast + spread,
            "first_frame_psnr": 30.0 + spread,
        }
    return verdict


def test_a_claim_holds_where_what_it_names_gets_worse() -> None:
    claim = next(each for each in CLAIMS if each.variant == "v2v-no-reference")
    baseline = _verdict(BASELINE, [True] * 40, 0.8)
    worse = _verdict("v2v-no-reference", [True] * 20 + [False] * 20, 0.5)
    same = _verdict("v2v-no-reference", [True] * 39 + [False], 0.8)
    better = _verdict("v2v-no-reference", [True] * 40, 0.9)
    for verdict, held in (
        (worse, "held: loses texture, texture contrast"),
        (same, "no difference seen"),
        (better, "the other way round: gains texture contrast"),
    ):
        assert judge_claim(claim, {BASELINE: baseline, claim.variant: verdict})[0] == held
    assert judge_claim(claim, {BASELINE: baseline})[0] == "not measured"


def test_the_table_marks_what_differs() -> None:
    verdicts = [_verdict(BASELINE, [True] * 40, 0.8), _verdict("bicubic", [True] * 20 + [False] * 20, 0.5)]
    table = ablations_markdown(verdicts, "Ablations: 40 prompts")
    row = next(line for line in table.splitlines() if line.startswith("| V2V replaced"))
    assert "| 50 (**−50**) |" in row and "| 0.52 (**−0.30**) |" in row and "| 100 (0) |" in row
    assert "held: loses texture" in table
    assert ablations_svg(verdicts, "Ablations").count("<circle") == 6
