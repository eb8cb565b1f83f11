"""The loop's laws: a step is the mean over all its rows however they are cut, averages are averages."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ensemble.errors import InputError
from ensemble.images.batches import Batch, plain_batches
from ensemble.recipe.parts import TrainPart
from ensemble.training.averages import Ema
from ensemble.training.device import check_bf16_gradients, check_compile, choose_precision, set_determinism
from ensemble.training.loop import LossError, Trainer, TrainerParts, _cuts
from ensemble.training.networks import NetworkSpec, build_network, decay_groups
from tests.training.trainers import (
    BATCH,
    BATCHES,
    LABELS,
    NORMALIZER,
    ROWS,
    SIZE,
    freeze_first_epoch,
    images,
    make_network,
    make_trainer,
    mixing,
    train_on,
)


def weights(trainer: Trainer) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in trainer.network.parameters()])


def without_norm(**options: Any) -> Trainer:
    return make_trainer(make_network(norm=False, drop=0.0), **options)


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 4, 100])
@pytest.mark.parametrize("options", [{}, {"accumulate": 2}, {"hooks": {"mixing": mixing}, "clip_norm": 0.3}])
def test_smaller_parts_of_a_batch_give_the_same_steps(micro_batch: int, options: dict[str, Any]) -> None:
    whole, cut = without_norm(**options), without_norm(micro_batch=micro_batch, **options)
    expected, history = train_on(whole), train_on(cut)
    assert cut.steps_done == whole.steps_done
    assert np.allclose(history, expected, atol=1e-5)
    assert torch.allclose(weights(cut), weights(whole), atol=1e-4)


def test_accumulated_batches_step_as_one_large_batch_would() -> None:
    """Also the last step of an epoch, whose batches are fewer and smaller."""

    class Joined:
        """Batches of three, each of them the batches of the feed put together."""

        steps = 2

        def epoch(self, epoch: int, from_step: int = 0) -> Any:
            batches = list(accumulated._feed.epoch(epoch))
            for group in (batches[:3], batches[3:]):
                yield Batch(
                    *(np.concatenate(parts) for parts in zip(*((b.rows, b.pixels) for b in group), strict=True))
                )

    accumulated, joined = without_norm(accumulate=3), without_norm()
    network, train = make_network(norm=False, drop=0.0), TrainPart(epochs=3, lr=0.02)
    parts = TrainerParts(
        feed=Joined(),
        labels=torch.from_numpy(LABELS),
        loss=joined._loss,
        groups=decay_groups(network, train.weight_decay),
        normalizer=NORMALIZER,
        precision="fp32",
        seed_of=joined._seed_of,
    )
    joined = Trainer(network, train, parts)
    assert accumulated.steps_per_epoch == joined.steps_per_epoch == 2
    assert np.allclose(train_on(accumulated), train_on(joined), atol=1e-5)
    assert torch.allclose(weights(accumulated), weights(joined), atol=1e-4)


@given(rows=st.integers(1, 300), most=st.integers(1, 300) | st.none())
def test_a_batch_is_cut_evenly_and_whole(rows: int, most: int | None) -> None:
    sizes = np.diff(_cuts(rows, most))
    assert sizes.sum() == rows
    assert sizes.max() - sizes.min() <= 1
    if most is not None and most > 1:
        assert sizes.min() > 1 or rows == 1
        assert sizes.max() <= max(most, 3)


def test_an_epoch_gives_the_mean_loss_over_rows_and_its_last_rate() -> None:
    seen: list[tuple[float, int]] = []

    def loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        value = torch.nn.functional.cross_entropy(logits, targets)
        seen.append((float(value.detach()), len(targets)))
        return value

    trainer = without_norm(loss=loss)
    result = trainer.run_epoch()
    assert [rows for _, rows in seen] == [5, 5, 5, 5, 2]
    assert result.loss == pytest.approx(sum(value * rows for value, rows in seen) / ROWS)
    assert (result.epoch, result.rows) == (1, ROWS)
    assert result.lr == trainer._schedule.rate(BATCHES - 1)
    assert 0 <= result.wait_share <= 1 < result.images_per_s


def test_dropout_is_drawn_anew_every_step_and_epoch() -> None:
    masks = []

    class Watched(torch.nn.Dropout):
        def forward(self, values: torch.Tensor) -> torch.Tensor:
            masks.append((super().forward(torch.ones(2, 54)) > 0).numpy().tobytes())
            return values

    network = make_network()
    network[4] = Watched(0.5)  # type: ignore[index]
    trainer = make_trainer(network)
    trainer.run_epoch()
    trainer.run_epoch()
    assert len(set(masks)) == 2 * BATCHES


def test_mixing_is_seeded_by_epoch_and_batch_and_done_on_whole_batches() -> None:
    calls: list[tuple[int, int]] = []
    epochs: list[int] = []

    def watched(pixels: torch.Tensor, labels: torch.Tensor, seed: int, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
        calls.append((len(pixels), seed))
        epochs.append(epoch)
        return mixing(pixels, labels, seed, epoch)

    train_on(make_trainer(hooks={"mixing": watched}, accumulate=2, micro_batch=2))
    assert [rows for rows, _ in calls] == [5, 5, 5, 5, 2] * 3
    assert len({seed for _, seed in calls}) == 15
    assert epochs == [1] * 5 + [2] * 5 + [3] * 5


def test_layers_are_frozen_for_an_epoch_after_the_network_is_put_into_training_mode() -> None:
    trainer = make_trainer(hooks={"set_frozen": freeze_first_epoch}, weight_decay=0.5)
    first, norm = list(trainer.network)[:2]  # type: ignore[call-overload]
    before, mean = first.weight.clone(), norm.running_mean.clone()
    trainer.run_epoch()
    assert torch.equal(first.weight, before)
    assert torch.equal(norm.running_mean, mean)
    trainer.evaluation_network().eval()
    trainer.run_epoch()
    assert not torch.equal(first.weight, before)
    assert not torch.equal(norm.running_mean, mean)


def test_the_moving_average_is_its_definition() -> None:
    values = [1.0, 3.0, -2.0, 5.0]
    network = torch.nn.Linear(1, 1, bias=False)
    average = Ema(0.3)
    expected = values[0]
    for step, value in enumerate(values):
        with torch.no_grad():
            network.weight.fill_(value)
        average.after_step(network)
        if step:
            decay = min(0.3, (1 + step) / (10 + step))
            expected = decay * expected + (1 - decay) * value
    assert average.network(network).weight.item() == pytest.approx(expected)
    assert network.weight.item() == values[-1]


def test_the_mean_over_epochs_is_the_mean_and_its_batch_norms_are_measured_over_all_rows() -> None:
    trainer = make_trainer(swa_epochs=2)
    ends = []
    while not trainer.is_done:
        trainer.run_epoch()
        ends.append(weights(trainer))
    averaged = trainer.evaluation_network()
    mean = torch.cat([parameter.flatten() for parameter in averaged.parameters()])
    assert torch.allclose(mean, (ends[1] + ends[2]) / 2, atol=1e-6)
    batches = [NORMALIZER(batch.pixels).clone() for batch in plain_batches(images(), np.arange(ROWS), BATCH, SIZE)]
    after_conv = averaged[0](torch.cat(batches))  # type: ignore[index]
    assert torch.allclose(averaged[1].running_mean, after_conv.mean(dim=(0, 2, 3)), atol=1e-4)  # type: ignore[index]


def test_before_the_last_epochs_and_without_averages_the_network_itself_is_evaluated() -> None:
    trainer = make_trainer(swa_epochs=1)
    trainer.run_epoch()
    assert trainer.evaluation_network() is trainer.network
    plain = make_trainer()
    assert plain.evaluation_network() is plain.network


def test_infinite_and_undefined_losses_name_the_step_the_rate_and_the_rows() -> None:
    for value in ("nan", "inf", "-inf"):
        trainer = make_trainer(loss=lambda logits, targets, value=value: logits.sum() * 0 + float(value))  # type: ignore[misc]
        with pytest.raises(LossError, match=r"at step 0 of epoch 1 \(learning rate 0.02, rows \d+, "):
            trainer.run_epoch()


def test_fp16_is_refused_without_a_gpu_and_auto_takes_what_the_device_has() -> None:
    with pytest.raises(InputError, match=r"train\.precision: fp16, but this machine has no GPU"):
        choose_precision("fp16", "cpu")
    assert choose_precision("auto", "cpu") == "fp32"
    assert choose_precision("bf16", "cpu") == "bf16"


def test_bf16_is_refused_where_a_cpu_gets_its_gradients_wrong() -> None:
    network = build_network(NetworkSpec("test_resnet", 3, 16), pretrained=False)
    check_bf16_gradients(network, torch.zeros(1, 3, 32, 32))
    with pytest.raises(InputError, match=r"train\.precision: bf16, but at image\.size 16 the layer layer4.0.conv1"):
        check_bf16_gradients(network, torch.zeros(1, 3, 16, 16))


def test_precisions_agree_but_for_rounding() -> None:
    losses = {name: train_on(without_norm(precision=name))[-1][1] for name in ("fp32", "bf16", "fp16")}
    assert len(set(losses.values())) == 3
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.05)
    assert losses["fp16"] == pytest.approx(losses["fp32"], rel=0.02)


def test_an_overflow_in_fp16_leaves_the_step_out_and_lowers_the_scale() -> None:
    trainer = without_norm(precision="fp16", loss=lambda logits, targets: logits.float().sum() * 1e36)
    before = weights(trainer)
    scale = trainer.state()["precision"]["scale"]
    trainer.run_epoch()
    assert torch.equal(weights(trainer), before)
    assert trainer.state()["precision"]["scale"] < scale


def test_channels_lie_last_or_first_in_memory_as_the_recipe_says() -> None:
    for channels_last in (True, False):
        seen: list[bool] = []
        network = make_network()
        network.register_forward_pre_hook(
            lambda module, inputs, seen=seen: seen.append(  # type: ignore[misc]
                inputs[0].is_contiguous(memory_format=torch.channels_last)
            )
        )
        trainer = make_trainer(network, channels_last=channels_last)
        trainer.run_epoch()
        assert set(seen) == {channels_last}


def test_a_torch_that_cannot_compile_is_refused_before_any_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(function: Any) -> Any:
        raise RuntimeError("\nno C++ compiler\nlong story")

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(InputError, match=r"train\.compile: true, but .* \(no C\+\+ compiler\)"):
        check_compile("cpu")


def test_determinism_is_set_and_unset() -> None:
    try:
        set_determinism(True)
        assert torch.are_deterministic_algorithms_enabled()
        train_on(make_trainer())
    finally:
        set_determinism(False)
    assert not torch.are_deterministic_algorithms_enabled()
