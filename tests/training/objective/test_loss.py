"""The objective: what is given has no loss, and no split of a batch changes a number."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from training.data.geometry import geometry_of
from training.data.loader import MicroBatch
from training.data.order import GlobalBatch, Shape
from training.data.samples import KeptSample
from training.models.generator import Generator, build_generator
from training.objective.loss import errors, generated_elements, weighted_loss
from training.objective.noise import Draw
from training.objective.noise import draw as draw_noise
from training.objective.tasks import TASKS, TaskName
from training.recipe import Recipe, load_recipe

SHAPE = Shape(33, 16, 32, 22_000)


@pytest.fixture
def recipe(recipe_file: Path) -> Recipe:
    return load_recipe(recipe_file, ["caption_dropout=0.5"])


@pytest.fixture
def generator(recipe: Recipe) -> Generator:
    built = build_generator(recipe)
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return built


def micro(recipe: Recipe, names: list[str]) -> MicroBatch:
    geometry = geometry_of(recipe)
    sources = [torch.Generator().manual_seed(int(name[1:])) for name in names]
    video = [torch.randn(geometry.video_latent(SHAPE), generator=one) for one in sources]
    audio = [torch.randn(geometry.audio_latent(SHAPE), generator=one) for one in sources]
    prompts = tuple(f"caption of {name}" for name in names)
    weights = torch.ones(len(names))
    return MicroBatch(torch.stack(video), torch.stack(audio), prompts, tuple(names), weights)


def whole(names: list[str], task: TaskName) -> GlobalBatch:
    members = [
        KeptSample(name, name, "", 0, 0, "", 33, 24.0, 32, 16, 16_000, 22_000, "train", None)
        for name in names
    ]
    return GlobalBatch(SHAPE, task, tuple(members))


def draw(micro_batch: MicroBatch, recipe: Recipe, step: int) -> Draw:
    return draw_noise(
        micro_batch,
        recipe.flow,
        caption_dropout=recipe.caption_dropout,
        seed=recipe.seed,
        step=step,
    )


def test_random_numbers_belong_to_samples(recipe: Recipe) -> None:
    together = draw(micro(recipe, ["s1", "s2", "s3"]), recipe, step=5)
    apart = [draw(micro(recipe, [name]), recipe, step=5) for name in ("s3", "s1")]
    assert together.video_noise is not None
    assert together.audio_noise is not None
    for position, alone in zip((2, 0), apart, strict=True):
        assert torch.equal(together.video_sigma[position : position + 1], alone.video_sigma)
        assert alone.video_noise is not None
        assert alone.audio_noise is not None
        assert torch.equal(together.video_noise[position], alone.video_noise[0])
        assert torch.equal(together.audio_noise[position], alone.audio_noise[0])
        assert together.prompts[position] == alone.prompts[0]
    later = draw(micro(recipe, ["s1", "s2", "s3"]), recipe, step=6)
    assert not torch.equal(together.video_sigma, later.video_sigma)


def test_captions_are_dropped_at_their_rate(recipe: Recipe) -> None:
    names = [f"s{index}" for index in range(200)]
    bare = MicroBatch(None, None, tuple("words" for _ in names), tuple(names), torch.ones(200))
    dropped = sum(prompt == "" for prompt in draw(bare, recipe, 0).prompts)
    assert 75 < dropped < 125


def test_a_dropped_caption_is_what_the_encoder_makes_of_an_empty_one(recipe: Recipe) -> None:
    names = tuple(f"s{index}" for index in range(40))
    own, empty = torch.randn(40, 6, 4), torch.randn(6, 4)
    prompts = tuple("words" for _ in names)
    drawn = draw(MicroBatch(None, None, prompts, names, torch.ones(40), own, empty), recipe, 0)
    assert drawn.text is not None
    dropped = [prompt == "" for prompt in drawn.prompts]
    assert 5 < sum(dropped) < 35
    for row, is_dropped in enumerate(dropped):
        assert torch.equal(drawn.text[row], empty if is_dropped else own[row])


def test_levels_are_coupled_as_told(recipe: Recipe) -> None:
    batch = micro(recipe, ["s1", "s2"])
    shared = draw(batch, recipe, 0)
    assert torch.equal(shared.video_sigma, shared.audio_sigma)
    flow = recipe.flow.model_copy(update={"coupling": "independent"})
    independent = draw(batch, recipe.model_copy(update={"flow": flow}), 0)
    assert torch.equal(independent.video_sigma, shared.video_sigma)
    assert not torch.equal(independent.audio_sigma, shared.audio_sigma)
    flow = recipe.flow.model_copy(update={"audio_shift": 3.0})
    shifted = draw(batch, recipe.model_copy(update={"flow": flow}), 0)
    assert (shifted.audio_sigma > shared.audio_sigma).all()


def gradient_of_data(
    generator: Generator, recipe: Recipe, task: TaskName
) -> tuple[Tensor | None, Tensor | None]:
    """How a loss depends on the noise of each latent: not at all where it is given."""
    batch = micro(recipe, ["s1"])
    drawn = draw(batch, recipe, 0)
    assert drawn.video_noise is not None
    assert drawn.audio_noise is not None
    video = drawn.video_noise.requires_grad_()
    audio = drawn.audio_noise.requires_grad_()
    drawn = dataclasses.replace(drawn, video_noise=video, audio_noise=audio)
    sums = errors(generator, batch, TASKS[task], drawn)
    torch.stack([value.sum() for value in sums.values()]).sum().backward()
    return video.grad, audio.grad


def test_what_is_given_is_clean_and_without_loss(generator: Generator, recipe: Recipe) -> None:
    video, audio = gradient_of_data(generator, recipe, "i2av")
    assert video is not None
    assert audio is not None
    assert not video[:, :, 0].any()
    assert video[:, :, 1:].any()
    assert audio.any()
    video, audio = gradient_of_data(generator, recipe, "v2a")
    assert video is not None
    assert not video.any()
    assert audio is not None
    assert audio.any()
    video, audio = gradient_of_data(generator, recipe, "t2v")
    assert video is not None
    assert video.any()
    assert audio is None


@pytest.mark.parametrize("task", list(TASKS))
def test_counts_are_those_of_generated_numbers(
    generator: Generator, recipe: Recipe, task: TaskName
) -> None:
    """With a model that says zero and data of zeros the loss is the noise's variance: 1."""
    torch.nn.init.zeros_(generator.model.video_model.head.head.weight)
    torch.nn.init.zeros_(generator.model.video_model.head.head.bias)
    torch.nn.init.zeros_(generator.model.audio_model.head.head.weight)
    torch.nn.init.zeros_(generator.model.audio_model.head.head.bias)
    names = [f"s{index}" for index in range(4)]
    batch = micro(recipe, names)
    assert batch.video is not None
    assert batch.audio is not None
    zeros = dataclasses.replace(
        batch, video=torch.zeros_like(batch.video), audio=torch.zeros_like(batch.audio)
    )
    elements = generated_elements(whole(names, task), geometry_of(recipe))
    sums = errors(generator, zeros, TASKS[task], draw(zeros, recipe, 0))
    _, parts = weighted_loss(sums, zeros.weights, elements, recipe.loss)
    assert parts.keys() == {name for name, count in elements.items() if count}
    for part in parts.values():
        assert float(part) == pytest.approx(1.0, abs=0.05)


def test_any_split_of_a_batch_adds_up(generator: Generator, recipe: Recipe) -> None:
    names = ["s1", "s2", "s3"]
    elements = generated_elements(whole(names, "t2av"), geometry_of(recipe))

    def loss_of(members: list[str], weights: list[float]) -> Tensor:
        batch = dataclasses.replace(micro(recipe, members), weights=torch.tensor(weights))
        sums = errors(generator, batch, TASKS["t2av"], draw(batch, recipe, 0))
        return weighted_loss(sums, batch.weights, elements, recipe.loss)[0]

    together = loss_of(names, [1.0, 1.0, 1.0])
    split = loss_of(["s1", "s2"], [1.0, 1.0]) + loss_of(["s3", "s1"], [1.0, 0.0])
    torch.testing.assert_close(together, split, rtol=1e-6, atol=0)


class Knowing(torch.nn.Module):
    """A model that knows the data, and says it."""

    def __init__(self, known: MicroBatch) -> None:
        super().__init__()
        self.known = known

    def forward(self, *_: object, **__: object) -> tuple[Tensor | None, Tensor | None]:
        return self.known.video, self.known.audio


@pytest.mark.parametrize("sigma", [0.0, 0.01, 0.05, 0.5, 1.0])
def test_who_predicts_the_data_and_knows_it_has_no_loss(recipe: Recipe, sigma: float) -> None:
    batch = micro(recipe, ["s1", "s2"])
    drawn = draw(batch, recipe, step=3)
    level = torch.full((2,), sigma)
    drawn = dataclasses.replace(drawn, video_sigma=level, audio_sigma=level)
    for prediction in ("data", "velocity"):
        generator = build_generator(recipe.model_copy(update={"prediction": prediction}))
        generator.model = Knowing(batch)  # type: ignore[assignment]
        found = errors(generator, batch, TASKS["t2av"], drawn)
        if prediction == "data":
            assert all(float(part.max()) < 1e-6 for part in found.values())
        else:
            assert all(float(part.min()) > 1 for part in found.values())


def test_the_sampler_is_handed_velocities_whatever_is_predicted(recipe: Recipe) -> None:
    batch = micro(recipe, ["s1"])
    drawn = draw(batch, recipe, step=3)
    assert batch.video is not None and drawn.video_noise is not None
    sigma = torch.tensor([0.8])
    generator = build_generator(recipe.model_copy(update={"prediction": "data"}))
    generator.model = Knowing(batch)  # type: ignore[assignment]
    noisy = 0.2 * batch.video + 0.8 * drawn.video_noise
    velocity, _ = generator(noisy, None, sigma, ["words"])
    torch.testing.assert_close(velocity, drawn.video_noise - batch.video, atol=1e-4, rtol=0)
