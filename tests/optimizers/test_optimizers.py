"""Optimizers take the steps of their papers, alone and with all that goes with them."""

from __future__ import annotations

import dataclasses
import inspect
import math

import numpy as np
import pytest
from array_api_compat import array_namespace
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import (
    ALONGSIDE,
    OPTIMIZERS,
    REGULARIZED,
    Case,
    assert_close,
    cases,
    deep,
    examples,
    flat,
    loop,
    looped,
    optimizer_name,
)

import bpengine as bp
from bpengine.backends import Operation
from bpengine.backprop.plan import Plan
from bpengine.optimizers.update import OptimizerState

every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=optimizer_name)
CLASSES = [bp.SGD, bp.Adam, bp.AdamW, bp.RMSprop, bp.Adagrad]


def descent(rule, state, g, η, t):
    if not rule.momentum:
        return -η * g
    v = state["v"] = rule.momentum * state.get("v", 0.0) - η * g
    return rule.momentum * v - η * g if rule.nesterov else v


def adam(rule, state, g, η, t):
    m = state["m"] = rule.beta_1 * state.get("m", 0.0) + (1 - rule.beta_1) * g
    v = state["v"] = rule.beta_2 * state.get("v", 0.0) + (1 - rule.beta_2) * g**2
    m_hat, v_hat = m / (1 - rule.beta_1**t), v / (1 - rule.beta_2**t)
    return -η * m_hat / (np.sqrt(v_hat) + rule.epsilon)


def rmsprop(rule, state, g, η, t):
    v = state["v"] = rule.decay * state.get("v", 0.0) + (1 - rule.decay) * g**2
    return -η * g / (np.sqrt(v) + rule.epsilon)


def adagrad(rule, state, g, η, t):
    s = state["s"] = state.get("s", 0.0) + g**2
    return -η * g / (np.sqrt(s) + rule.epsilon)


RULES = {bp.SGD: descent, bp.Adam: adam, bp.AdamW: adam, bp.RMSprop: rmsprop, bp.Adagrad: adagrad}


class Loop:
    """Training in plain NumPy: array by array, the gradient from a loop over the examples."""

    def __init__(self, case, net, lab, optimizer):
        self.one, self.net, self.optimizer = loop(case, net, lab), net, optimizer
        self.states = [{} for _ in range(2 * case.layers)]
        self.steps, self.average = [], None

    @property
    def arrays(self):
        return [*self.one.weights, *self.one.biases]

    def step(self, X, Y, η):
        rule, w, net = self.optimizer, self.one.weights, self.net
        nabla_w, nabla_b = self.one.gradient(X, Y)
        nabla_w = [
            g + net.l2 * entry + net.l1 * np.sign(entry) for g, entry in zip(nabla_w, w, strict=True)
        ]
        gradient = [*nabla_w, *nabla_b]
        length = np.linalg.norm(flat(gradient))
        if rule.clip_norm is not None and length > rule.clip_norm:
            gradient = [g * rule.clip_norm / length for g in gradient]
        for entry in w:
            entry *= 1 - η * rule.weight_decay
        t = len(self.steps) + 1
        for θ, g, state in zip(self.arrays, gradient, self.states, strict=True):
            θ += RULES[type(rule)](rule, state, g, η, t)
        if rule.max_norm is not None:
            for entry in w:
                for row in entry:
                    row *= min(1.0, rule.max_norm / np.linalg.norm(row))
        self.steps.append(flat(self.arrays))
        if rule.averaging is not None:
            if t * (1 - rule.averaging) <= 1:
                self.average = np.mean(self.steps, axis=0)
            else:
                self.average = rule.averaging * self.average + (1 - rule.averaging) * self.steps[-1]


def parameters(net, lab):
    """All weights, then all biases, without the padding between them."""
    return flat([*net.weights, *net.biases], lab)


def average(plan, lab):
    """The average that a plan's state holds, in the same order."""
    other = plan.network.astype(plan.network.dtype)
    other.vector[...] = plan.state.arrays["average"]
    return parameters(other, lab)


@st.composite
def optimizers(draw):
    """Any optimizer, with any of what goes with all of them; ε large enough to keep rounding down."""
    betas, ε = st.floats(0.0, 0.95), st.floats(1e-4, 1e-2)
    specific = {
        bp.SGD: {"momentum": betas},
        bp.Adam: {"beta_1": betas, "beta_2": betas, "epsilon": ε},
        bp.AdamW: {"beta_1": betas, "beta_2": betas, "epsilon": ε},
        bp.RMSprop: {"decay": betas, "epsilon": ε},
        bp.Adagrad: {"epsilon": ε},
    }
    shared = {
        "clip_norm": st.floats(0.01, 2.0),
        "weight_decay": st.floats(0.0, 0.5),
        "max_norm": st.floats(0.2, 2.0),
        "averaging": st.floats(0.0, 0.95),
    }
    rule = draw(st.sampled_from(list(specific)))
    options = draw(st.fixed_dictionaries(specific[rule], optional=shared))
    if options.get("momentum"):
        options["nesterov"] = draw(st.booleans())
    return rule(draw(rates), **options)


rates = st.floats(1e-3, 0.2)
strengths = st.sampled_from([0.0, 0.01, 0.3])


@given(
    case=cases(max_layers=3),
    optimizer=optimizers(),
    penalties=st.fixed_dictionaries({"l1": strengths, "l2": strengths}),
    later=st.lists(rates, max_size=4),
)
@examples(60)
def test_every_step_is_that_of_the_paper(lab, case, optimizer, penalties, later):
    """With any mixture of clipping, decay, bounds, averaging and penalties, and any learning rates."""
    net = case.network(lab, **penalties)
    expected = Loop(case, net, lab, optimizer)
    X, Y = case.host_data()
    plan = net.plan(case.batch, optimizer)
    plan.load(lab.array(X), lab.array(Y))
    assert plan.learning_rate == optimizer.learning_rate
    for η in [optimizer.learning_rate, *later]:
        before = lab.numpy(net.vector).copy()
        plan.learning_rate = η
        np.testing.assert_array_equal(lab.numpy(net.vector), before)  # it counts from the next step
        plan.run()
        expected.step(X, Y, η)
    assert_close(parameters(net, lab), expected.steps[-1], 1e-9)
    if optimizer.averaging is not None:
        assert_close(average(plan, lab), expected.average, 1e-9)


@every_optimizer
@pytest.mark.parametrize("alongside", [{}, ALONGSIDE], ids=["alone", "with all"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("float64", 1e-12)])
def test_steps_at_the_usual_settings(lab, optimizer, alongside, dtype, tolerance):
    optimizer = dataclasses.replace(optimizer, **alongside)
    case = dataclasses.replace(deep("tanh", "quadratic"), dtype=dtype)
    net = case.network(lab, l2=0.1)
    expected = Loop(dataclasses.replace(case, dtype="float64"), net, lab, optimizer)
    expected.one.weights = [w.astype("float64") for w in expected.one.weights]
    expected.one.biases = [b.astype("float64") for b in expected.one.biases]
    X, Y = case.host_data()
    plan = net.plan(case.batch, optimizer)
    plan.load(lab.array(X), lab.array(Y))
    plan.run(steps=12)
    for _ in range(12):
        expected.step(X.astype("float64"), Y.astype("float64"), optimizer.learning_rate)
    assert_close(parameters(net, lab), expected.steps[-1], tolerance)
    assert np.abs(expected.steps[-1] - expected.steps[0]).max() > 1e-3
    if optimizer.averaging is not None:
        assert_close(average(plan, lab), expected.average, tolerance)
        assert np.abs(expected.average - expected.steps[-1]).max() > 1e-3


@given(case=cases(max_layers=3), optimizer=optimizers(), steps=st.integers(2, 5))
@examples(20)
def test_steps_in_one_call_are_the_same_as_in_many(lab, case, optimizer, steps):
    """Dropout, whose masks are drawn anew in each, among them."""
    nets = [case.network(lab, **REGULARIZED) for _ in range(2)]
    plans = [net.plan(case.batch, optimizer, weighted=True) for net in nets]
    for plan in plans:
        plan.load(*case.data(lab), np.arange(1.0, case.batch + 1))
    plans[0].run(steps=steps)
    for _ in range(steps):
        plans[1].run()
    np.testing.assert_array_equal(*(lab.numpy(net.vector) for net in nets))
    for name, array in plans[0].state.arrays.items():
        np.testing.assert_array_equal(lab.numpy(array), lab.numpy(plans[1].state.arrays[name]))


@given(optimizer=optimizers(), sizes=st.lists(st.sampled_from([3, 4]), min_size=2, max_size=6))
@examples(20)
def test_plans_of_two_batch_sizes_share_a_state(lab, optimizer, sizes):
    case = Case([3, 4, 2], ["tanh", "sigmoid"], "quadratic", batch=7, seed=3)
    net = case.network(lab, l2=0.1)
    expected = Loop(case, net, lab, optimizer)
    X, Y = case.host_data()
    state = OptimizerState(optimizer, net.parameters)
    parts = {4: slice(0, 4), 3: slice(4, 7)}
    plans = {m: Plan(net, m, optimizer, state=state) for m in parts}
    for m, columns in parts.items():
        plans[m].load(lab.array(X[:, columns]), lab.array(Y[:, columns]))
    for m in sizes:
        plans[m].run()
        expected.step(X[:, parts[m]], Y[:, parts[m]], optimizer.learning_rate)
    assert_close(parameters(net, lab), expected.steps[-1], 1e-9)


@every_optimizer
def test_a_state_holds_all_that_a_step_remembers(lab, optimizer):
    """With the parameters, that is enough to go on elsewhere as if nothing had been."""
    optimizer = dataclasses.replace(optimizer, **ALONGSIDE)
    case = deep("tanh", "quadratic")
    plans = []
    for _ in range(2):
        plan = case.network(lab, l1=0.01).plan(case.batch, optimizer)
        plan.load(*case.data(lab))
        plans.append(plan)
    first, second = plans
    first.run(steps=3)
    second.network.vector[...] = first.network.vector
    assert first.state.arrays.keys() == second.state.arrays.keys()
    for name, array in first.state.arrays.items():
        second.state.arrays[name][...] = array
    first.run(steps=3)
    second.run(steps=3)
    np.testing.assert_array_equal(lab.numpy(first.network.vector), lab.numpy(second.network.vector))


@pytest.mark.parametrize(
    "schedule",
    [
        bp.schedules.StepDecay(0.3),
        bp.schedules.WarmUp(0.3, epochs=5),
        bp.schedules.OnPlateau(0.3),
        lambda epoch: 0.3 / (1 + epoch),
    ],
    ids=["StepDecay", "WarmUp", "OnPlateau", "function"],
)
@pytest.mark.parametrize("rule", [bp.SGD, bp.Adam])
def test_a_plan_starts_with_the_first_rate_of_its_schedule(lab, rule, schedule):
    case = deep("tanh", "quadratic")
    first = schedule.rate(0.0) if isinstance(schedule, bp.schedules.Schedule) else schedule(0.0)
    nets = []
    for rate in (schedule, first):
        plan = case.network(lab).plan(case.batch, rule(rate))
        assert plan.learning_rate == first
        plan.load(*case.data(lab))
        nets.append(plan.run(steps=2).network)
    np.testing.assert_array_equal(*(lab.numpy(net.vector) for net in nets))


@given(case=cases(max_layers=3), μ=st.floats(0.1, 0.95), η=rates, steps=st.integers(1, 5))
@examples(20)
def test_nesterovs_gradient_is_taken_one_velocity_ahead(lab, case, μ, η, steps):
    """v ← μ v - η ∇C(θ + μ v), θ ← θ + v: the network holds θ + μ v."""
    assume("exponential" not in str(case.activations))  # with which steps may overflow
    net = case.network(lab)
    ahead = loop(case, net, lab)
    X, Y = case.host_data()
    θ = [*ahead.weights, *ahead.biases]
    v = [np.zeros_like(entry) for entry in θ]
    for _ in range(steps):
        points = [entry + μ * velocity for entry, velocity in zip(θ, v, strict=True)]
        ahead.weights, ahead.biases = points[: case.layers], points[case.layers :]
        nabla_w, nabla_b = ahead.gradient(X, Y)
        v = [μ * velocity - η * g for velocity, g in zip(v, [*nabla_w, *nabla_b], strict=True)]
        θ = [entry + velocity for entry, velocity in zip(θ, v, strict=True)]
    plan = net.plan(case.batch, bp.SGD(η, momentum=μ, nesterov=True))
    plan.load(lab.array(X), lab.array(Y))
    plan.run(steps=steps)
    expected = flat([entry + μ * velocity for entry, velocity in zip(θ, v, strict=True)])
    assert_close(parameters(net, lab), expected, 1e-11)


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.0, 0.5), (0.99, 0.9)])
def test_adams_first_step_has_the_length_of_the_learning_rate_in_every_direction(lab, betas):
    """Its corrections make of the first averages the gradient and its square."""
    case = deep("tanh", "quadratic")
    net = case.network(lab)
    gradient = lab.numpy(net.backprop(*case.data(lab)).vector)
    before = lab.numpy(net.vector).copy()
    plan = net.plan(case.batch, bp.Adam(0.125, *betas, epsilon=1e-15))
    plan.load(*case.data(lab))
    plan.run()
    steps = lab.numpy(net.vector) - before
    np.testing.assert_allclose(steps, -0.125 * np.sign(gradient), atol=1e-12)


def step(net, lab, case, optimizer):
    """The parameters after one step less those before it."""
    before = lab.numpy(net.vector).copy()
    plan = net.plan(case.batch, optimizer)
    plan.load(*case.data(lab))
    plan.run()
    return lab.numpy(net.vector) - before


@given(case=cases(max_layers=3), η=rates, share=st.floats(0.1, 0.9))
@examples(20)
def test_clipping_keeps_the_gradients_direction_and_bounds_its_norm(lab, case, η, share):
    length = float(np.linalg.norm(lab.numpy(case.network(lab).backprop(*case.data(lab)).vector)))
    assume(length > 1e-6)
    free = step(case.network(lab), lab, case, bp.SGD(η))
    clipped = step(case.network(lab), lab, case, bp.SGD(η, clip_norm=share * length))
    assert_close(clipped, share * free, 1e-9, scale=1e-6)
    assert np.linalg.norm(clipped) == pytest.approx(η * share * length, rel=1e-6)


@every_optimizer
def test_a_shorter_gradient_is_not_clipped(lab, optimizer):
    case = deep("tanh", "quadratic")
    length = float(np.linalg.norm(lab.numpy(case.network(lab).backprop(*case.data(lab)).vector)))
    bounded = dataclasses.replace(optimizer, clip_norm=1.01 * length)
    steps = [step(case.network(lab), lab, case, entry) for entry in (optimizer, bounded)]
    assert_close(steps[1], steps[0], 1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@every_optimizer
def test_a_learning_rate_of_0_is_no_step(lab, optimizer, dtype):
    """A schedule may end there. The clipped gradient is then 0, and so is its bound."""
    case = dataclasses.replace(deep("tanh", "quadratic"), dtype=dtype)
    net = case.network(lab)
    ended = bp.schedules.Cosine(0.5, epochs=3)
    optimizer = dataclasses.replace(optimizer, learning_rate=ended, clip_norm=0.5, weight_decay=0.1)
    plan = net.plan(case.batch, optimizer)
    plan.load(*case.data(lab))
    before = lab.numpy(net.vector).copy()
    plan.learning_rate = ended.rate(3.0)
    assert plan.learning_rate == 0
    np.testing.assert_array_equal(lab.numpy(plan.run(steps=2).network.vector), before)
    plan.learning_rate = 0.25
    updated = lab.numpy(plan.run().network.vector)
    assert np.isfinite(updated).all() and (updated != before).any()


@pytest.mark.parametrize("rule", CLASSES)
def test_training_goes_on_when_a_schedule_has_ended(lab, rule):
    optimizer = rule(bp.schedules.Cosine(0.1, epochs=2), clip_norm=0.5)
    case = deep("tanh", "quadratic")
    nets = [case.network(lab) for _ in range(2)]
    for net, epochs in zip(nets, (2, 4), strict=True):
        net.fit(*case.data(lab), epochs=epochs, batch_size=6, optimizer=optimizer, progress=False)
    np.testing.assert_array_equal(*(lab.numpy(net.vector) for net in nets))


@given(case=cases(max_layers=3), bound=st.floats(0.1, 2.0))
@examples(20)
def test_max_norm_bounds_the_weights_into_each_neuron(lab, case, bound):
    nets = [case.network(lab) for _ in range(2)]
    step(nets[0], lab, case, bp.SGD(0.1))
    step(nets[1], lab, case, bp.SGD(0.1, max_norm=bound))
    for free, bounded in zip(nets[0].weights, nets[1].weights, strict=True):
        for row, limited in zip(lab.numpy(free), lab.numpy(bounded), strict=True):
            length = np.linalg.norm(row)
            np.testing.assert_allclose(limited, row * min(1.0, bound / length), rtol=1e-9, atol=1e-14)
            assert np.linalg.norm(limited) <= bound * (1 + 1e-12)
    np.testing.assert_allclose(
        flat(nets[1].biases, lab), flat(nets[0].biases, lab), rtol=1e-12, atol=1e-14
    )


@every_optimizer
def test_decay_shrinks_weights_and_no_bias(lab, optimizer):
    """Where the gradient is 0, it is all that happens."""
    rule = dataclasses.replace(optimizer, learning_rate=0.25, weight_decay=0.5)
    net = bp.Network([3, 2], "linear", backend=lab.backend, dtype="float64", rng=0)
    net.biases[0] = lab.array([[0.5], [-2.0]])
    w, b = lab.numpy(net.weights[0]).copy(), lab.numpy(net.biases[0]).copy()
    plan = net.plan(4, rule)
    plan.load(lab.array(np.zeros((3, 4))), lab.array(np.repeat(b, 4, axis=1)))
    plan.run(steps=3)
    np.testing.assert_allclose(lab.numpy(net.weights[0]), (1 - 0.25 * 0.5) ** 3 * w, rtol=1e-14)
    np.testing.assert_array_equal(lab.numpy(net.biases[0]), b)


@every_optimizer
@pytest.mark.parametrize("averaging", [0.0, 0.5, 0.999])
def test_training_ends_with_the_average_of_its_steps(lab, optimizer, averaging):
    """The epochs that follow go on from the parameters, not from their average."""
    case = deep("tanh", "quadratic")
    X, Y = case.data(lab)
    options = {"epochs": 5, "batch_size": case.batch, "shuffle": False, "progress": False}
    plain, averaged, seen = case.network(lab), case.network(lab), []
    plain.fit(
        X,
        Y,
        optimizer=optimizer,
        callbacks=[lambda training: seen.append(lab.numpy(training.network.vector).copy())],
        **options,
    )
    averaged.fit(X, Y, optimizer=dataclasses.replace(optimizer, averaging=averaging), **options)
    expected = seen[0]
    for n, vector in enumerate(seen[1:], 2):
        expected = expected + max(1 / n, 1 - averaging) * (vector - expected)
    assert_close(lab.numpy(averaged.vector), expected, 1e-12)


@dataclasses.dataclass(frozen=True, repr=False)
class SignDescent(bp.Optimizer):
    """θ ← θ - η sign(Σ ∇C): a custom rule with a state."""

    def init(self, parameters):
        return {"sum": parameters * 0}

    def update(self, parameters, gradient, state, rate):
        def rule(θ, g, total, η):
            total = total + g
            return θ - η * array_namespace(θ).sign(total), total

        total = state["sum"]
        inputs = parameters, gradient, total, rate
        yield Operation("sign descent", "update", rule, inputs, parameters, (total,))


def test_a_rule_of_ones_own(lab):
    case = Case([2, 3, 2], ["tanh", "sigmoid"], "quadratic", batch=4, seed=5)
    net, twin = (case.network(lab) for _ in range(2))
    rule = SignDescent(0.125, clip_norm=1e3, averaging=0.5)
    assert repr(rule) == "SignDescent(learning_rate=0.125, clip_norm=1000.0, averaging=0.5)"
    total = 0.0
    for _ in range(3):
        total = total + parameters(twin.backprop(*case.data(lab)), lab)
        updated = parameters(twin, lab) - 0.125 * np.sign(total)
        put(twin, updated, lab)
    history = net.fit(*case.data(lab), epochs=3, batch_size=4, optimizer=rule, progress=False)
    assert len(history.cost) == 3
    plan = case.network(lab).plan(4, rule)
    plan.load(*case.data(lab))
    plan.run(steps=3)
    assert_close(parameters(plan.network, lab), parameters(twin, lab), 1e-12)
    assert plan.counts["sign descent"] == 1


def put(net, values, lab):
    """The reverse of `parameters`."""
    start = 0
    for view in [*net.weights, *net.biases]:
        stop = start + math.prod(view.shape)
        view[...] = lab.array(values[start:stop].reshape(view.shape))
        start = stop


def test_a_rule_has_to_say_what_it_does():
    with pytest.raises(TypeError, match="abstract"):
        bp.Optimizer(0.1)


@pytest.mark.parametrize(
    "optimizer",
    [
        bp.Adam(1e-30, epsilon=1e-300),
        bp.Adam(clip_norm=1e300),
        bp.Adam(clip_norm=1e-300),
        bp.SGD(0.1, clip_norm=1e300),
        bp.SGD(0.1, clip_norm=1e-300),
        bp.SGD(0.1, max_norm=1e300),
        bp.SGD(0.1, max_norm=1e-300),
        bp.RMSprop(epsilon=1e-300),
        bp.Adagrad(epsilon=1e-300),
        bp.Adagrad(epsilon=1e300),
        bp.SGD(1e-300, averaging=1 - 1e-16),
    ],
    ids=repr,
)
def test_constants_that_float32_does_not_hold_are_its_nearest(lab, optimizer):
    """None becomes 0 or infinite, which would make no numbers of gradients that are 0."""
    net = bp.Network([2, 3, 2], "relu", backend=lab.backend, rng=0)
    for b in net.biases:
        b[...] = -100.0  # no neuron is active: all gradients are 0
    before = lab.numpy(net.vector).copy()
    plan = net.plan(4, optimizer)
    plan.load(lab.array(np.ones((2, 4), "float32")), lab.array(np.ones((2, 4), "float32")))
    found = lab.numpy(plan.run(steps=2).network.vector)
    assert np.isfinite(found).all()
    if optimizer.max_norm != 1e-300:
        np.testing.assert_array_equal(found, before)


@every_optimizer
@pytest.mark.parametrize("alongside", [{}, ALONGSIDE], ids=["alone", "with all"])
def test_learning_brings_the_cost_down(lab, optimizer, alongside):
    case = deep("tanh", "quadratic")
    plan = case.network(lab).plan(case.batch, dataclasses.replace(optimizer, **alongside))
    plan.load(*case.data(lab))
    before = plan.run().cost
    assert plan.run(steps=20).cost < 0.95 * before


def test_optimizers_are_values():
    for optimizer in OPTIMIZERS:
        assert optimizer == dataclasses.replace(optimizer)
        assert hash(optimizer) == hash(dataclasses.replace(optimizer))
        assert optimizer != dataclasses.replace(optimizer, learning_rate=7.0)
        with pytest.raises(dataclasses.FrozenInstanceError):
            optimizer.learning_rate = 0.5
    assert bp.Adam(0.5) != bp.AdamW(0.5, weight_decay=0.0)


@pytest.mark.parametrize("rule", CLASSES)
def test_what_goes_with_every_optimizer_is_given_by_name(rule):
    kinds = {name: p.kind for name, p in inspect.signature(rule).parameters.items()}
    assert {name for name, kind in kinds.items() if kind is inspect.Parameter.KEYWORD_ONLY} == {
        "clip_norm",
        "weight_decay",
        "max_norm",
        "averaging",
    }


def test_adam_and_adamw_take_the_same_arguments_in_the_same_order():
    assert bp.AdamW(0.5, 0.8, 0.9, 0.01) == bp.AdamW(
        learning_rate=0.5, beta_1=0.8, beta_2=0.9, epsilon=0.01, weight_decay=0.01
    )


@pytest.mark.parametrize(
    ("optimizer", "text"),
    [
        (bp.SGD(), "SGD(learning_rate=0.1)"),
        (
            bp.SGD(0.5, momentum=0.9, nesterov=True),
            "SGD(learning_rate=0.5, momentum=0.9, nesterov=True)",
        ),
        (bp.Adam(max_norm=2.0), "Adam(learning_rate=0.001, max_norm=2.0)"),
        (bp.AdamW(), "AdamW(learning_rate=0.001)"),
        (bp.AdamW(weight_decay=0.0), "AdamW(learning_rate=0.001, weight_decay=0.0)"),
        (bp.RMSprop(decay=0.5), "RMSprop(learning_rate=0.01, decay=0.5)"),
        (
            bp.Adagrad(bp.schedules.StepDecay(0.5)),
            "Adagrad(learning_rate=StepDecay(initial=0.5, factor=0.1, every=10))",
        ),
        (bp.LBFGS(5), "LBFGS(memory=5, tolerance=1e-05, max_evaluations=15000)"),
    ],
)
def test_an_optimizer_is_shown_as_it_is_written(optimizer, text):
    def same(shown):
        return eval(shown, {**vars(bp), **vars(bp.schedules)}) == optimizer

    assert repr(optimizer) == text
    assert same(text) and not same("SGD(learning_rate=9.0)")


NAN, INF = float("nan"), float("inf")
POSITIVE = [0, -1.0, NAN, INF]
WRONG = {
    ("clip_norm", *CLASSES): POSITIVE,
    ("max_norm", *CLASSES): POSITIVE,
    ("learning_rate", *CLASSES): POSITIVE,
    ("weight_decay", *CLASSES): [-0.1, NAN, INF],
    ("averaging", *CLASSES): [1, 1.5, -0.1, NAN],
    ("momentum", bp.SGD): [1, 2.0, -0.1, NAN],
    ("beta_1", bp.Adam, bp.AdamW): [1.0, -0.1, NAN],
    ("beta_2", bp.Adam, bp.AdamW): [1.0, -0.1, NAN],
    ("epsilon", bp.Adam, bp.AdamW, bp.RMSprop, bp.Adagrad): POSITIVE,
    ("decay", bp.RMSprop): [1.0, -0.5, NAN],
    ("memory", bp.LBFGS): [0, -3],
    ("tolerance", bp.LBFGS): [-1e-5, NAN, INF],
    ("max_evaluations", bp.LBFGS): [0, -1],
}
OUT_OF_RANGE = [
    (rule, name, value) for (name, *rules), values in WRONG.items() for rule in rules for value in values
]


@pytest.mark.parametrize(("rule", "name", "value"), OUT_OF_RANGE)
def test_a_value_out_of_range_is_refused_by_name(rule, name, value):
    with pytest.raises(ValueError, match=rf"^{name} must be "):
        rule(**{name: value})


@pytest.mark.parametrize(("rule", "name"), [(rule, name) for name, *rules in WRONG for rule in rules])
@pytest.mark.parametrize("value", ["0.5", [[0.5]], np.ones((2, 1)), {}], ids=str)
def test_a_value_of_another_kind_is_refused_by_name(rule, name, value):
    with pytest.raises(TypeError, match=rf"^{name}(\[0\])? must be a (whole )?number"):
        rule(**{name: value})


def test_every_argument_is_tried_out_of_range():
    tried = {(rule, name) for rule, name, _ in OUT_OF_RANGE}
    for rule in [*CLASSES, bp.LBFGS]:
        names = {field.name for field in dataclasses.fields(rule)} - {"nesterov"}
        assert {(rule, name) for name in names} <= tried


@looped("name, rule", [("sgd", bp.SGD()), ("adamw", bp.AdamW()), ("rmsprop", bp.RMSprop())])
def test_a_name_is_the_optimizer_with_its_defaults(name, rule):
    X, Y = np.eye(3), np.eye(3)
    found, expected = bp.Network([3, 3], rng=0), bp.Network([3, 3], rng=0)
    assert found.plan(3, name).optimizer == rule
    for net, optimizer in ((found, name), (expected, rule)):
        net.fit(X, Y, epochs=2, optimizer=optimizer, progress=False)
        net.partial_fit(X, Y, optimizer=optimizer)
    np.testing.assert_array_equal(found.vector, expected.vector)
    with pytest.raises(ValueError, match=r"unknown optimizer 'adan'. Did you mean 'adam'\?"):
        found.fit(X, Y, optimizer="adan", progress=False)


def test_nesterov_needs_momentum():
    with pytest.raises(ValueError, match=r"nesterov=True needs a momentum above 0"):
        bp.SGD(0.1, nesterov=True)


@pytest.mark.parametrize(
    "what",
    [0.1, bp.schedules.StepDecay(0.1), object()],
    ids=["number", "schedule", "object"],
)
def test_what_is_no_optimizer_is_refused(lab, what):
    net = bp.Network([2, 2], backend=lab.backend, rng=0)
    X = lab.array(np.ones((2, 4), "float32"))
    expected = r"optimizer must be one such as bp\.SGD\(0\.5\) or bp\.Adam\(\); got "
    with pytest.raises(TypeError, match=expected):
        net.plan(4, what)
    with pytest.raises(TypeError, match=expected):
        net.fit(X, X, optimizer=what, batch_size=4, progress=False)


@pytest.mark.parametrize("rule", [*CLASSES, bp.LBFGS])
def test_a_class_in_place_of_an_optimizer_is_named(lab, rule):
    with pytest.raises(TypeError, match=rf"optimizer must be .*; got {rule.__name__}\."):
        bp.Network([2, 2], backend=lab.backend).plan(4, rule)


def test_a_plan_takes_no_lbfgs(lab):
    with pytest.raises(TypeError, match=r"LBFGS takes all examples in every step: .*net\.fit"):
        bp.Network([2, 2], backend=lab.backend).plan(4, bp.LBFGS())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_learning_rate_of_a_plan_is_the_number_that_was_given(lab, dtype):
    plan = bp.Network([2, 2], backend=lab.backend, dtype=dtype).plan(4, bp.Adam(0.1))
    assert plan.learning_rate == 0.1
    plan.learning_rate = 0.3
    assert plan.learning_rate == 0.3


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (-0.1, ValueError, "learning_rate must be 0 or more and finite, got -0.1"),
        (float("nan"), ValueError, "learning_rate must be 0 or more and finite, got nan"),
        (float("inf"), ValueError, "learning_rate must be 0 or more and finite, got inf"),
        ("0.1", TypeError, "learning_rate must be a number, got '0.1'"),
        (1e39, ValueError, "learning_rate=1e[+]39 is beyond what float32 holds"),
    ],
)
def test_a_plan_refuses_a_learning_rate_that_is_none(lab, value, error, message):
    plan = bp.Network([2, 2], backend=lab.backend).plan(4, bp.SGD(0.1))
    with pytest.raises(error, match=message):
        plan.learning_rate = value
    assert plan.learning_rate == 0.1


@pytest.mark.parametrize("value", [1.0, 0.5])
def test_a_plan_without_an_optimizer_has_no_learning_rate(lab, value):
    plan = bp.Network([2, 2], backend=lab.backend).plan(4)
    with pytest.raises(ValueError, match="no optimizer, and so no learning rate"):
        _ = plan.learning_rate
    with pytest.raises(ValueError, match="no optimizer, and so no learning rate"):
        plan.learning_rate = value


def test_what_was_checked_is_what_is_used():
    rule = bp.LBFGS(memory=np.uint8(3), tolerance=np.float32(0.5), max_evaluations=np.int16(7))
    assert [type(x) for x in (rule.memory, rule.tolerance, rule.max_evaluations)] == [int, float, int]
    rule = bp.SGD(0.1, np.float32(0.5), np.bool_(True), clip_norm=np.int8(2), averaging=np.float32(0.5))
    assert [type(x) for x in (rule.momentum, rule.nesterov, rule.clip_norm, rule.averaging)] == [
        float,
        bool,
        float,
        float,
    ]
    for nesterov in (float("nan"), "yes", None):
        with pytest.raises(TypeError, match="nesterov must be True or False"):
            bp.SGD(0.1, 0.9, nesterov)


@pytest.mark.parametrize("value", [10**400, np.array("7"), 1j, None])
def test_numbers_that_float_can_not_hold_are_refused_by_name(value):
    with pytest.raises((TypeError, ValueError), match="learning_rate must be"):
        bp.SGD(learning_rate=value)


def test_a_scheduled_rate_beyond_float32_is_the_greatest_that_it_holds(lab):
    """Where the gradient is 0 nothing changes: the rate may be large, not infinite, as ∞ · 0 is NaN."""
    net = bp.Network([2, 3, 1], ["tanh", "linear"], backend=lab.backend, rng=0)  # biases are 0
    before = lab.numpy(net.vector).copy()

    def rate(epoch):
        return 1e300 if 0 < epoch < 2 / 3 else 0.1  # the second of three steps

    X, Y = lab.array(np.zeros((2, 6), "float32")), lab.array(np.zeros((1, 6), "float32"))
    net.fit(X, Y, epochs=1, batch_size=2, optimizer=bp.RMSprop(rate), progress=False)
    np.testing.assert_array_equal(lab.numpy(net.vector), before)
