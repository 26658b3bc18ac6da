"""Private training: what a step may move, the noise, the batches, and the privacy that is reported."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import Case, assert_close, cases, examples, flat, loop

import bpengine as bp
from bpengine.backends.operation import NOISE_BLOCK
from bpengine.data.resident import InMemory
from bpengine.privacy.accountant import ORDERS, privacy_spent
from bpengine.privacy.dpsgd import DPSGD
from bpengine.privacy.noise import Noise, Noisy
from bpengine.privacy.sampling import Poisson
from bpengine.privacy.training import private_training

stats = pytest.importorskip("scipy.stats")
try:
    import dp_accounting as dp
except ImportError:
    dp = None
accounted = pytest.mark.skipif(dp is None, reason="needs dp-accounting")
OFF = {"noise_multiplier": 0.0, "delta": None}


def columns_of(net, lab, X, Y, bound):
    """The loop's gradients of single examples, each scaled down to the bound, as rows of parameters."""
    case = Case(list(net.sizes), [σ.name for σ in net.activations], net.cost.name)
    one = loop(case, net, lab)
    rows = []
    for x in range(X.shape[1]):
        w, b = one.backprop(X[:, x : x + 1], Y[:, x : x + 1])
        row = np.concatenate(
            [np.concatenate([w_, b_], axis=1).ravel() for w_, b_ in zip(w, b, strict=True)]
        )
        rows.append(row * min(1, bound / np.linalg.norm(row)))
    return np.stack(rows)


class Host:
    """A lab for plain NumPy."""

    backend = bp.backends.get("numpy")
    numpy = staticmethod(np.asarray)


def private_plan(net, m, optimizer, *, expected=None, **options):
    gradient = Noisy(optimizer, net.rng, expected)
    return bp.Plan(net, m, optimizer.rule, gradient=gradient, **options)


def small(N=40, seed=0, **options):
    net = bp.Network(
        [3, 4, 2], ["tanh", "sigmoid"], backend="numpy", dtype="float64", rng=seed, **options
    )
    rng = np.random.default_rng([seed, 1])
    return net, rng.standard_normal((3, N)), rng.random((2, N))


@given(case=cases(max_layers=3), filled=st.integers(0, 3), expected=st.integers(1, 9))
@examples(20)
def test_a_step_sums_clipped_gradients_of_the_examples_that_are_there(lab, case, filled, expected):
    net, other = case.network(lab, l2=0.01), case.network(lab, l2=0.01)
    X, Y = case.host_data()
    bound, η, m = 0.3, 0.5, case.batch
    plan = private_plan(net, m + filled, DPSGD(η, 0.0, bound), weighted=True, expected=expected)
    padded = [np.concatenate([x, np.repeat(x[:, :1], filled, axis=1)], axis=1) for x in (X, Y)]
    plan.load(*(lab.array(x) for x in padded))
    plan.workspace.weights[...] = lab.backend.asarray(
        np.concatenate([np.ones((1, m)), np.zeros((1, filled))], axis=1), case.dtype
    )
    plan.run()
    clipped = other.backprop(lab.array(X), lab.array(Y), per_example="clip", max_norm=bound)
    penalty = case.network(lab, l2=0.01)
    sum_ = lab.numpy(clipped.vector) * m
    for g, w in zip(clipped.weights, penalty.weights, strict=True):
        g[...] = 0.01 * w
    for g in clipped.biases:
        g[...] = 0.0
    pull = lab.numpy(clipped.vector)
    # backprop's average of m has the penalty once; so has the step
    expected_step = η * ((sum_ - m * pull) / expected + pull)
    change = lab.numpy(other.vector) - lab.numpy(net.vector)
    assert_close(change, expected_step, 1e-11, scale=1e-3)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_training_is_the_loop_with_clipping_and_noise(momentum):
    N, η, bound, σ, batch = 40, 0.4, 0.2, 0.7, 10
    net, X, Y = small(N)
    other, *_ = small(N)
    optimizer = DPSGD(η, σ, bound, momentum=momentum, delta=None)
    net.fit(X, Y, epochs=2, batch_size=batch, optimizer=optimizer, progress=False)
    rng = other.rng
    noise, velocity = Noise(rng, other.backend, "float64"), 0.0
    for _ in range(2):
        sizes = rng.binomial(N, batch / N, 4)
        batches = [rng.choice(N, size, replace=False, shuffle=False) for size in sizes]
        for numbers in batches:
            sum_ = columns_of(other, Host, X[:, numbers], Y[:, numbers], bound).sum(axis=0)
            drawn = []
            for block in other.parameters.blocks:
                drawn.append(np.empty(block.size))
                noise.fill(drawn[-1], 1.0)
            g = (sum_ + σ * bound * np.concatenate(drawn)) / batch
            velocity = momentum * velocity - η * g
            other.vector[...] += velocity
    assert_close(net.vector, other.vector, 1e-12)


@given(seed=st.integers(0, 2**16))
@examples(10)
def test_one_example_moves_the_parameters_by_the_bound_at_most(seed):
    η, bound, expected = 0.5, 0.3, 4
    change = []
    for m in (3, 4):
        net, X, Y = small(4, seed)
        X[:, 3] *= 1000
        plan = private_plan(net, m, DPSGD(η, 0.0, bound), expected=expected)
        plan.load(X[:, :m], Y[:, :m])
        plan.run()
        change.append(net.vector.copy())
    assert np.linalg.norm(change[1] - change[0]) <= η * bound / expected * (1 + 1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_noise_of_steps_is_normal_of_the_promised_strength(lab, dtype):
    η, σ, bound, m, steps = 0.5, 1.5, 0.25, 8, 40
    net = bp.Network([9, 20, 5], "linear", backend=lab.backend, dtype=dtype, rng=3)
    net.vector[...] = 0.0
    X, Y = np.zeros((9, m), dtype), np.zeros((5, m), dtype)
    found = []
    for _ in range(steps):
        net.vector[...] = 0.0  # where outputs are right: no gradient
        plan = private_plan(net, m, DPSGD(η, σ, bound))
        plan.load(lab.array(X), lab.array(Y))
        plan.run()
        found.append(flat((*net.weights, *net.biases), lab).astype("float64"))
    drawn = np.concatenate(found) / (η * σ * bound / m)
    assert stats.kstest(drawn, "norm").pvalue > 1e-3
    assert drawn.std() == pytest.approx(1, abs=4 / math.sqrt(2 * drawn.size))
    item = np.stack(found)
    between = np.corrcoef(item[:-1].ravel(), item[1:].ravel())[0, 1]
    assert abs(between) < 4 / math.sqrt(item[1:].size)


def test_padding_gets_no_noise(lab):
    class Aligned(type(lab.backend)):
        alignment = 64

        def __init__(self):
            vars(self).update(vars(lab.backend))

    net = bp.Network([3, 5, 2], backend=Aligned(), dtype="float64", rng=0)
    before = [lab.numpy(block).copy() for block in net.parameters.blocks]
    plan = private_plan(net, 4, DPSGD(0.5, 1.0, 1.0))
    plan.load(lab.array(np.ones((3, 4))), lab.array(np.ones((2, 4))))
    plan.run(3)
    for old, block, n in zip(before, net.parameters.blocks, net.sizes, strict=False):
        assert (lab.numpy(block)[:, n + 1 :] == 0).all()
        assert (lab.numpy(block)[:, : n + 1] != old[:, : n + 1]).all()


def drawn(dtype, count, size=NOISE_BLOCK, seed=0):
    noise = Noise(np.random.default_rng(seed), bp.backends.get("numpy"), dtype)
    out = np.empty((count, size), dtype)
    for row in out:
        noise.fill(row, np.array(1, dtype))
    return out.astype("float64")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_noise_is_standard_normal(dtype):
    x = drawn(dtype, 128)
    n = x.size
    assert stats.kstest(x.ravel()[: 2**19], "norm").pvalue > 1e-3
    for order, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170)):
        assert (x**order).mean() == pytest.approx(moment, abs=4.5 * math.sqrt(variance / n))
    for k in (3.0, 4.0, 4.5):
        expected = n * 2 * stats.norm.sf(k)
        assert (np.abs(x) > k).sum() == pytest.approx(expected, abs=4.5 * math.sqrt(expected))
    assert np.isfinite(x).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_noise_of_one_place_says_nothing_of_another(dtype):
    x = drawn(dtype, 64)
    half = NOISE_BLOCK // 2
    for other in (np.roll(x, 1, axis=1), np.roll(x, half, axis=1), np.roll(x, 1, axis=0)):
        for f in (lambda v: v, np.abs, np.square):
            assert abs(np.corrcoef(f(x).ravel(), f(other).ravel())[0, 1]) < 4.5 / math.sqrt(x.size / 2)


@pytest.mark.parametrize("size", [1, 2, 7, 64])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_noise_of_any_size(dtype, size):
    x = drawn(dtype, 4000, size)
    assert x.mean(axis=0) == pytest.approx(0, abs=5 / math.sqrt(4000))
    assert x.std(axis=0) == pytest.approx(1, abs=5 / math.sqrt(8000))


def test_the_ends_of_the_bits_give_finite_noise():
    class Bits:
        def __init__(self, value):
            self.value = value

        def integers(self, low, high, size, dtype, endpoint):
            return np.full(size, self.value, dtype)

    for value in (0, 2**64 - 1, 2**63, 2**31):
        noise, out = Noise(Bits(value), bp.backends.get("numpy"), "float32"), np.empty(64, "float32")
        noise.fill(out, np.float32(1))
        assert np.isfinite(out).all()
        assert np.abs(out).max() < 6.8


def test_a_seed_gives_the_same_noise_on_every_backend(lab):
    def vector(backend):
        net = bp.Network([80, 300, 30], "tanh", backend=backend, dtype="float32", rng=1)
        plan = private_plan(net, 4, DPSGD(0.1, 1.0, 1.0))
        rng = np.random.default_rng(2)
        X = rng.random((80, 4), "float32")
        Y = rng.random((30, 4), "float32")
        X, Y = (x if backend == "numpy" else lab.array(x) for x in (X, Y))
        plan.load(X, Y)
        plan.run(2)
        return np.concatenate([np.ravel(net.backend.to_numpy(w)) for w in (*net.weights, *net.biases)])

    assert_close(vector(lab.backend), vector("numpy"), 1e-5)


def poisson(N, batch, seed=0):
    net = bp.Network([2, 2], backend="numpy", dtype="float64", rng=0)
    X = np.arange(1.0, 2 * N + 1).reshape(2, N)
    Y = np.full((2, N), 0.25)
    source = InMemory(net, X, Y, None, batch, True)
    return Poisson(source, net.dtype, np.random.default_rng(seed), 1.0), X


def taken(source, epochs, most=lambda step, m: 7):
    """Numbers of the examples in each step, checked to be filled up with nothing but weight 0."""
    found = []
    for _ in range(epochs):
        steps = 0
        for chunk in source.chunks(np.random.default_rng(), most):
            assert chunk.weighted
            total = 0
            rows = np.empty((chunk.size, source.rows.shape[1]))
            for batch in chunk.batches:
                chunk.load(batch, rows)
                here = np.asarray(batch)[rows[:, -1] == 1]
                assert (rows[len(here) :, -1] == 0).all()
                assert (rows[len(here) :, :2] == 0).all()
                assert (here < source.examples).all()
                assert len(set(here.tolist())) == len(here)
                found.append(here)
                total += len(here)
            assert chunk.total == total
            assert len(chunk.batches) <= 7
            y, weights = chunk.outcomes()
            assert y.shape == (len(chunk.batches), 2, chunk.size)
            assert (y == 0.25).all()
            assert weights.sum() == total
            steps += len(chunk.batches)
        assert steps == source.steps
    return found


@pytest.mark.parametrize(("N", "batch"), [(50, 5), (64, 32), (9, 9), (30, 1), (10, 4)])
def test_every_example_is_in_a_batch_with_the_same_probability(N, batch):
    source, _ = poisson(N, batch)
    batches = taken(source, max(1, 4000 // source.steps))
    q, count = batch / N, len(batches)
    shares = np.bincount(np.concatenate(batches), minlength=N) / count
    assert shares == pytest.approx(q, abs=5 * math.sqrt(q * (1 - q) / count) + 1e-12)
    sizes = np.array([len(batch) for batch in batches])
    assert sizes.mean() == pytest.approx(batch, abs=5 * math.sqrt(N * q * (1 - q) / count) + 1e-12)
    assert sizes.var() == pytest.approx(N * q * (1 - q), rel=0.2)


def test_two_examples_are_drawn_independently():
    N, batch = 12, 4
    source, _ = poisson(N, batch)
    batches = taken(source, 2000)
    there = np.array([[x in set(b.tolist()) for x in range(N)] for b in batches], float)
    off = np.corrcoef(there.T) - np.eye(N)
    assert np.abs(off).max() < 5 / math.sqrt(len(batches))


def test_plans_are_few():
    net = bp.Network([2, 3, 2], backend="numpy", rng=0)
    source = InMemory(net, np.ones((2, 2000)), np.ones((2, 2000)), None, 100, True)
    training = private_training(net, DPSGD(0.1, 1.0, 1.0, delta=None), source, 5)
    training.run()
    assert 1 <= len(training.runner._plans) <= 6
    assert all(100 <= m <= 160 for m, *_ in training.runner._plans)


def test_the_cost_is_the_average_over_the_examples_that_were_drawn():
    net, X, Y = small(30)
    Y[:] = 0.5
    net.vector[...] = 0.0  # outputs of ½ everywhere
    Y[0] = 0.7
    history = net.fit(
        X, Y, epochs=1, batch_size=10, optimizer=DPSGD(1e-12, **OFF, max_norm=1.0), progress=False
    )
    assert history.cost[0] == pytest.approx(0.02, rel=1e-6)


def test_a_seed_gives_the_same_training_again():
    vectors = []
    for seed in (5, 5, 6):
        net, X, Y = small(seed=0)
        net.rng = np.random.default_rng(seed)
        net.fit(X, Y, epochs=2, batch_size=8, optimizer=DPSGD(0.5, 1.0, 1.0, delta=None), progress=False)
        vectors.append(net.vector.copy())
    assert (vectors[0] == vectors[1]).all()
    assert (vectors[0] != vectors[2]).any()


def test_secure_takes_its_seed_from_the_operating_system(monkeypatch):
    asked = []
    monkeypatch.setattr("secrets.randbits", lambda bits: asked.append(bits) or len(asked))
    vectors = []
    for _ in range(2):
        net, X, Y = small()
        state = net.rng.bit_generator.state
        optimizer = DPSGD(0.5, 1.0, 1.0, secure=True, delta=None)
        net.fit(X, Y, epochs=2, batch_size=8, optimizer=optimizer, progress=False)
        assert net.rng.bit_generator.state == state
        vectors.append(net.vector.copy())
    assert asked == [256, 256]
    assert (vectors[0] != vectors[1]).any()


def test_it_learns_with_schedules_momentum_validation_and_averaging():
    X, labels = bp.datasets.circles(1000, rng=0)
    net = bp.Network([2, 16, 2], ["tanh", "softmax"], "softmax_cross_entropy", rng=0)
    optimizer = DPSGD(
        bp.schedules.Cosine(2.0, epochs=30), 0.5, 0.5, momentum=0.5, averaging=0.9, delta=None
    )
    history = net.fit(
        X, labels, epochs=30, batch_size=50, optimizer=optimizer, validation=0.2, progress=False
    )
    assert history.validation_accuracy[-1] > 0.9
    assert history.learning_rate[-1] < 0.1


@accounted
def test_the_report_is_the_accountants():
    net, X, Y = small(40)
    optimizer = DPSGD(0.1, 1.2, 1.0, delta=1e-4)
    history = net.fit(X, Y, epochs=3, batch_size=10, optimizer=optimizer, progress=False)
    event = dp.PoissonSampledDpEvent(0.25, dp.GaussianDpEvent(1.2))
    for epoch, ε in enumerate(history.epsilon, 1):
        accountant = dp.rdp.RdpAccountant(ORDERS)
        accountant.compose(event, 4 * epoch)
        assert ε == pytest.approx(accountant.get_epsilon(1e-4), rel=1e-12)
    assert len(history.epsilon) == 3
    assert history.epsilon == sorted(history.epsilon)
    assert history.last()["epsilon"] == history.epsilon[-1]
    assert bp.History.from_dict(history.as_dict()).epsilon == history.epsilon


@accounted
def test_more_noise_fewer_steps_and_smaller_batches_spend_less():
    base = privacy_spent([(0.1, 1.0, 100)], 1e-5)
    assert privacy_spent([(0.1, 2.0, 100)], 1e-5) < base
    assert privacy_spent([(0.1, 1.0, 50)], 1e-5) < base
    assert privacy_spent([(0.05, 1.0, 100)], 1e-5) < base
    assert privacy_spent([(0.1, 1.0, 50), (0.1, 1.0, 50)], 1e-5) == pytest.approx(base, rel=1e-9)
    assert privacy_spent([(0.1, 0.0, 1)], 1e-5) == math.inf
    # one step on all examples: the Gaussian mechanism, below its classic bound √(2 ln(1.25/δ)) / σ
    assert privacy_spent([(1.0, 8.0, 1)], 1e-5) < math.sqrt(2 * math.log(1.25e5)) / 8


@accounted
def test_steps_of_an_epoch_that_was_interrupted_count():
    net, X, Y = small(40)

    def interrupt(training):
        if training.epoch == 2:
            training.callbacks.append(Stop())

    class Stop(bp.Callback):
        def steps(self, training, count):
            raise KeyboardInterrupt

    history = net.fit(
        X,
        Y,
        epochs=9,
        batch_size=10,
        optimizer=DPSGD(0.1, 1.0, 1.0),
        callbacks=[interrupt],
        progress=False,
    )
    assert history.interrupted
    assert len(history.cost) == 2
    expected = [privacy_spent([(0.25, 1.0, 4 * epoch)], 1e-5) for epoch in (1, 2, 3)]
    assert history.epsilon == pytest.approx(expected)


@accounted
def test_a_resumed_training_goes_on_with_what_was_spent(tmp_path):
    path = tmp_path / "run.npz"

    def script(epochs, σ=1.0, path=path):
        net, X, Y = small(40)
        return net, net.fit(
            X,
            Y,
            epochs=epochs,
            batch_size=10,
            optimizer=DPSGD(0.1, σ, 1.0),
            callbacks=[bp.Checkpoint(path)],
            resume=path,
            progress=False,
        )

    script(2)
    net, history = script(5)
    straight, whole = script(5, path=tmp_path / "other.npz")
    assert history.epsilon == pytest.approx(whole.epsilon)
    assert (net.vector == straight.vector).all()
    _, history = script(6, σ=0.8)
    expected = privacy_spent([(0.25, 1.0, 20), (0.25, 0.8, 4)], 1e-5)
    assert history.epsilon[-1] == pytest.approx(expected)


@accounted
def test_resuming_what_did_not_count_is_refused(tmp_path):
    net, X, Y = small(40)
    path = tmp_path / "run.npz"
    options = {"batch_size": 10, "callbacks": [bp.Checkpoint(path)], "resume": path, "progress": False}
    net.fit(X, Y, epochs=1, optimizer=DPSGD(0.1, 1.0, 1.0, delta=None), **options)
    with pytest.raises(ValueError, match="checkpoint"):
        net.fit(X, Y, epochs=2, optimizer=DPSGD(0.1, 1.0, 1.0), **options)


def test_without_the_accountant_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "dp_accounting", None)
    net, X, Y = small()
    before = net.vector.copy()
    with pytest.raises(ImportError, match=r'pip install "bpengine\[privacy\]"'):
        net.fit(X, Y, optimizer=DPSGD(0.1, 1.0, 1.0), progress=False)
    assert (net.vector == before).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.1, -1.0, 1.0), "noise_multiplier must be 0 or more and finite, got -1.0."),
        ((0.1, 1.0, 0.0), "max_norm must be above 0 and finite, got 0.0."),
        ((0.0, 1.0, 1.0), "learning_rate must be above 0 and finite, got 0.0."),
        ((0.1, 1.0, 1.0, {"delta": 1.0}), "delta must be above 0 and below 1, got 1.0."),
        ((0.1, 1.0, 1.0, {"momentum": 1.0}), "momentum must be from 0 to below 1, got 1.0."),
    ],
)
def test_values_out_of_range(arguments, message):
    *values, options = arguments if isinstance(arguments[-1], dict) else (*arguments, {})
    with pytest.raises(ValueError) as error:
        DPSGD(*values, **options)
    assert message in str(error.value)


def test_what_does_not_go_with_private_training_is_refused():
    net, X, Y = small()
    fit, private = net.fit, {"optimizer": DPSGD(0.1, 1.0, 1.0, delta=None), "progress": False}
    with pytest.raises(ValueError, match="DPSGD takes no sample_weight"):
        fit(X, Y, sample_weight=np.ones(40), **private)
    with pytest.raises(ValueError, match="give X and Y as arrays in memory"):
        fit([(X, Y)], **private)
    with pytest.raises(ValueError, match="monitor shows what DPSGD hides"):
        fit(X, Y, monitor="epoch", **private)
    with pytest.raises(TypeError, match="optimizer must be one such as"):
        net.partial_fit(X, Y, optimizer=DPSGD(0.1, 1.0, 1.0))
    with pytest.raises(ValueError, match="DPSGD sets max_norm"):
        net.plan(8, DPSGD(0.1, 1.0, 1.0), per_example="clip", max_norm=1.0)


def test_a_plan_of_it_is_recorded_and_shown():
    net, *_ = small()
    plan = net.plan(8, DPSGD(0.1, 1.0, 1.0))
    assert plan.counts["gaussian noise"] == 2
    assert plan.counts["matmul"] == net.plan(8, bp.SGD(0.1)).counts["matmul"]
    assert "gaussian noise" in str(plan)
    assert repr(DPSGD(0.1, 1.0, 2.0, momentum=0.9)) == (
        "DPSGD(learning_rate=0.1, noise_multiplier=1.0, max_norm=2.0, momentum=0.9)"
    )
