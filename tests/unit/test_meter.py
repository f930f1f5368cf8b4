"""The meter of a run: speed while steps are taken, and the time that is left with all that lies between."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bothways.train.loop import Event
from bothways.train.meter import Meter, Reading
from bothways.train.progress import Progress
from bothways.train.settings import UpdateSettings
from bothways.train.step import StepResult

RESULT = StepResult(2.0, {"mlm": 2.0, "accuracy": 0.5}, 100, 1.0, True)


class Clock:
    def __init__(self) -> None:
        self.now = 5.0

    def __call__(self) -> float:
        return self.now


def step(meter: Meter, clock: Clock, number: int, seconds: float, result: StepResult = RESULT) -> Reading:
    clock.now += seconds
    reading = meter.add(Event("step", Progress(step=number), result))
    assert reading is not None
    meter.resume()
    return reading


def test_evaluations_checkpoints_and_the_first_step_are_no_part_of_the_speed() -> None:
    clock = Clock()
    meter = Meter(100, 3.0, 600.0, clock)
    assert meter.add(Event("save", Progress())) is None
    step(meter, clock, 1, 50.0)
    for number in range(2, 11):
        reading = step(meter, clock, number, 2.0)
        clock.now += 30.0
        meter.add(Event("evaluate", Progress(step=number), means={"mlm": 9.0}))
        clock.now += 10.0
        meter.resume()
        assert reading.tokens_per_second == pytest.approx(50.0)
        assert reading.share == pytest.approx(0.25)
    assert reading.left == pytest.approx((50.0 + 9 * 42.0 - 40.0) / 10 * 90)


def test_the_speed_follows_that_of_the_last_steps() -> None:
    clock = Clock()
    meter = Meter(1000, 1.0, 1.0, clock)
    for number in range(1, 101):
        step(meter, clock, number, 1.0)
    for number in range(101, 201):
        reading = step(meter, clock, number, 4.0)
    assert reading.tokens_per_second == pytest.approx(25.0, rel=0.03)


def test_losses_of_steps_that_were_not_taken_do_not_count() -> None:
    clock = Clock()
    meter = Meter(10, 1.0, 1.0, clock)
    skipped = replace(RESULT, loss=float("nan"), means={}, applied=False)
    step(meter, clock, 1, 1.0, skipped)
    assert step(meter, clock, 2, 1.0).loss == 2.0
    reading = step(meter, clock, 3, 1.0, skipped)
    assert (reading.loss, reading.accuracy) == (2.0, 0.5)
    assert str(reading) == "loss 2.000, accuracy 50.0%, 100 tokens/s, 10000% of the matrix rate"


def test_a_head_on_known_states_tells_no_share_of_the_matrix_rate() -> None:
    clock = Clock()
    meter = Meter(10, 0.0, 1.0, clock)
    step(meter, clock, 1, 1.0)
    assert str(step(meter, clock, 2, 1.0)) == "loss 2.000, accuracy 50.0%, 100 tokens/s"


@pytest.mark.parametrize(("steps", "rising"), [(1, 1), (2, 1), (100, 6), (10_000, 600), (1_000_000, 10_000)])
def test_warmup_is_a_share_of_the_steps_unless_it_is_said(steps: int, rising: int) -> None:
    assert UpdateSettings().rising(steps) == rising
    assert UpdateSettings(warmup=0).rising(steps) == 0
