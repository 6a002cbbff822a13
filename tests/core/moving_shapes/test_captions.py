"""Captions: the vocabulary covers the world, and training captions say nothing wrong."""

import random

from magicvideo_core.moving_shapes.captions import VOCABULARY, training_caption, unknown_words
from magicvideo_core.moving_shapes.world import parse_prompt, sample_scene


def test_unknown_words_are_named_in_order_and_once() -> None:
    assert unknown_words("A big RED circle, moving right on a navy background!") == []
    assert unknown_words("a dog and a red dog on Mars") == ["dog", "mars"]


def test_captions_use_the_vocabulary_and_only_the_scene_s_words() -> None:
    rng = random.Random(1)
    for _ in range(200):
        scene = sample_scene(rng, num_objects=rng.choice((1, 2)))
        caption = training_caption(scene, rng)
        assert set(caption.split()) <= set(VOCABULARY)
        assert set(caption.split()) <= set(scene.prompt.split())


def test_captions_can_be_empty_or_canonical() -> None:
    rng = random.Random(1)
    scene = sample_scene(rng)
    assert training_caption(scene, rng, drop_all=1.0) == ""
    assert training_caption(scene, rng, drop_all=0.0, drop_some=0.0) == scene.prompt


def test_a_spinning_circle_always_names_its_texture() -> None:
    rng = random.Random(1)
    scene = parse_prompt("a big dotted red circle spinning on a gray background")
    assert scene is not None
    captions = [training_caption(scene, rng, drop_all=0.0, drop_some=1.0) for _ in range(50)]
    assert all("dotted" in caption for caption in captions)
