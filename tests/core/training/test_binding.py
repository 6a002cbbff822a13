"""Which words speak of which object, and the loss that makes attention follow them."""

import random

import torch

from magicvideo_core.models.tiny import build_unet
from magicvideo_core.moving_shapes.captions import training_caption, words_of_objects
from magicvideo_core.moving_shapes.world import sample_scene
from magicvideo_core.training.binding import binding_loss, watched_cross_attention
from magicvideo_core.training.data import MovingShapes, Told


def test_the_words_of_an_object_are_those_that_name_it() -> None:
    rng, found = random.Random(0), 0
    for _ in range(200):
        scene = sample_scene(rng, num_objects=2)
        caption = training_caption(scene, rng)
        words = caption.split()
        if (told := words_of_objects(caption)) is None:
            assert caption == ""
            continue
        found += 1
        for spec, places in zip(scene.objects, told, strict=True):
            spoken = [words[place] for place in places]
            assert spec.shape in spoken
            assert set(spoken) <= set(spec.words.split())
    assert found > 150
    assert words_of_objects(sample_scene(rng).prompt) is None


def test_attention_to_the_own_words_costs_less_than_to_the_others() -> None:
    # Two by two places: the first object is in the upper row, the second in the lower; the words are tokens 1 and 3.
    masks = torch.tensor([[[1.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [1.0, 1.0]]])[None]
    told = Told([0], [(range(0, 1), range(2, 3))], masks)
    own = torch.tensor([[0.1, 0.8, 0.0, 0.1], [0.1, 0.8, 0.0, 0.1], [0.1, 0.1, 0.0, 0.8], [0.1, 0.0, 0.1, 0.8]])
    right, wrong = own[None, None], own.flip(0)[None, None]
    timestep = torch.tensor([500])
    assert binding_loss([right], told, timestep) < 0.1 < 1 < binding_loss([wrong], told, timestep)
    # Before anything shows where an object will be, nothing is asked.
    assert binding_loss([wrong], told, torch.tensor([999])) == 0
    assert binding_loss([wrong], told, torch.tensor([999]), max_timestep=1000) > 1


def test_every_cross_attention_of_the_unet_is_watched_with_gradients() -> None:
    unet = build_unet()
    conditions = {"text_embeds": torch.randn(1, 128), "time_ids": torch.full((1, 2), 64.0)}
    with watched_cross_attention(unet) as maps:
        unet(torch.randn(1, 32, 8, 8), torch.tensor([500]), torch.randn(1, 24, 128), added_cond_kwargs=conditions)
    with watched_cross_attention(unet, watch=False) as nothing:
        unet(torch.randn(1, 32, 8, 8), torch.tensor([500]), torch.randn(1, 24, 128), added_cond_kwargs=conditions)
    assert not nothing
    assert {tuple(each.shape[2:]) for each in maps} == {(16, 24)}
    assert all(torch.allclose(each.sum(-1), torch.ones(())) for each in maps)
    shown = MovingShapes().stills(8, random.Random(0)).show([0], 64)
    told = shown.told()
    assert told is not None
    loss = binding_loss([maps[0].expand(8, -1, -1, -1)], told, torch.full((8,), 500))
    loss.backward()
    assert next(p for n, p in unet.named_parameters() if n.endswith("attn2.to_k.weight")).grad.abs().sum() > 0
