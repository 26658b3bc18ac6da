"""PyTorch: its optimizers, schedulers, losses and penalties, step by step."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bpengine as bp

torch = pytest.importorskip("torch")

STEPS = 100
SIZES = [4, 8, 6, 3]
BATCHES = [7, 5]
PAIRS = {
    "SGD": (bp.SGD(0.1), lambda p: torch.optim.SGD(p, lr=0.1)),
    "momentum": (bp.SGD(0.02, momentum=0.9), lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9)),
    "Nesterov": (
        bp.SGD(0.02, momentum=0.9, nesterov=True),
        lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9, nesterov=True),
    ),
    "Adam": (bp.Adam(), torch.optim.Adam),
    "Adam, other values": (
        bp.Adam(0.01, 0.8, 0.95, epsilon=1e-3),
        lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.8, 0.95), eps=1e-3),
    ),
    "AdamW": (bp.AdamW(), torch.optim.AdamW),
    "AdamW, other values": (
        bp.AdamW(0.01, weight_decay=0.3),
        lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.3),
    ),
    "RMSprop": (bp.RMSprop(), torch.optim.RMSprop),
    "RMSprop, other values": (
        bp.RMSprop(0.002, decay=0.7, epsilon=1e-4),
        lambda p: torch.optim.RMSprop(p, lr=0.002, alpha=0.7, eps=1e-4),
    ),
    "Adagrad": (bp.Adagrad(), torch.optim.Adagrad),
}
every_pair = pytest.mark.parametrize(("ours", "theirs"), PAIRS.values(), ids=PAIRS)


def network(**options):
    return bp.Network(
        SIZES,
        ["tanh", "sigmoid", "softmax"],
        "softmax_cross_entropy",
        backend="numpy",
        dtype="float64",
        rng=0,
        **options,
    )


def batches():
    rng = np.random.default_rng(1)
    return [(rng.standard_normal((4, m)), rng.integers(0, 3, m)) for m in BATCHES]


def module(net):
    """Their network with the weights of ours; its outputs are what is given to the softmax."""
    layers = []
    for w, b, σ in zip(net.weights, net.biases, (torch.nn.Tanh, torch.nn.Sigmoid, None), strict=True):
        linear = torch.nn.Linear(w.shape[1], w.shape[0], dtype=torch.float64)
        with torch.no_grad():
            linear.weight.copy_(torch.tensor(w))
            linear.bias.copy_(torch.tensor(b[:, 0]))
        layers += [linear] if σ is None else [linear, σ()]
    return torch.nn.Sequential(*layers)


def groups(model):
    """Parameters as their optimizers take them: what decays is the weights alone."""
    linear = [layer for layer in model if isinstance(layer, torch.nn.Linear)]
    return [
        {"params": [layer.weight for layer in linear]},
        {"params": [layer.bias for layer in linear], "weight_decay": 0.0},
    ]


def train(model, optimizer, loss=None, before_step=lambda: None, steps=STEPS):
    loss = torch.nn.CrossEntropyLoss() if loss is None else loss
    data = [(torch.tensor(X.T.copy()), torch.tensor(labels)) for X, labels in batches()]
    for step in range(steps):
        x, labels = data[step % len(data)]
        optimizer.zero_grad()
        loss(model(x), labels).backward()
        before_step()
        optimizer.step()


def fit(net, optimizer, **options):
    """The same steps with ours: batch after batch, the optimizer's state kept between them."""
    data = batches()
    return net.fit(
        [(X, labels) for X, labels in data],
        epochs=STEPS // len(data),
        optimizer=optimizer,
        progress=False,
        **options,
    )


def assert_same(net, model, tolerance=1e-10):
    linear = [layer for layer in model if isinstance(layer, torch.nn.Linear)]
    for w, b, layer in zip(net.weights, net.biases, linear, strict=True):
        np.testing.assert_allclose(w, layer.weight.detach().numpy(), rtol=0, atol=tolerance)
        np.testing.assert_allclose(b[:, 0], layer.bias.detach().numpy(), rtol=0, atol=tolerance)


@every_pair
def test_a_hundred_steps_of_every_optimizer(ours, theirs):
    net = network()
    before = net.vector.copy()
    model = module(net)
    train(model, theirs(groups(model)))
    fit(net, ours)
    assert_same(net, model)
    assert np.abs(net.vector - before).max() > 0.03


@every_pair
def test_l2_is_their_decay_in_the_gradient(ours, theirs):
    """All but AdamW's add λ w to the gradient."""
    if isinstance(ours, bp.AdamW):
        pytest.skip("AdamW's decay is not in the gradient")
    net = network(l2=0.05)
    model = module(net)
    optimizer = theirs(groups(model))
    optimizer.param_groups[0]["weight_decay"] = 0.05
    train(model, optimizer)
    fit(net, ours)
    assert_same(net, model)


@every_pair
def test_penalties_are_those_of_a_cost_that_has_them(ours, theirs):
    net = network(l1=0.002, l2=0.01)
    model = module(net)
    cross_entropy = torch.nn.CrossEntropyLoss()

    def loss(z, labels):
        weights = [layer.weight for layer in model if isinstance(layer, torch.nn.Linear)]
        penalty = sum(0.005 * (w**2).sum() + 0.002 * w.abs().sum() for w in weights)
        return cross_entropy(z, labels) + penalty

    train(model, theirs(groups(model)), loss, steps=20)
    net.fit(batches(), epochs=10, optimizer=ours, progress=False)
    assert_same(net, model)
    X, labels = batches()[0]
    expected = loss(model(torch.tensor(X.T.copy())), torch.tensor(labels)).item()
    assert net.evaluate(X, labels)["cost"] == pytest.approx(expected, abs=1e-9)


@every_pair
@pytest.mark.parametrize("bound", [0.05, 0.5])
def test_clipping(ours, theirs, bound):
    """Theirs divides by the norm and 10⁻⁶ more, and the others by a norm that they clip by."""
    net = network()
    model = module(net)
    lengths = []

    def clip():
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), math.inf)
        lengths.append(norm.item())
        for parameter in model.parameters():
            parameter.grad *= min(1.0, bound / norm.item())

    train(model, theirs(groups(model)), before_step=clip)
    fit(net, dataclasses.replace(ours, clip_norm=bound))
    assert_same(net, model)
    assert max(lengths) > bound
    net, model = network(), module(network())
    train(
        model,
        theirs(groups(model)),
        before_step=lambda: torch.nn.utils.clip_grad_norm_(model.parameters(), bound),
        steps=10,
    )
    net.fit(batches(), epochs=5, optimizer=dataclasses.replace(ours, clip_norm=bound), progress=False)
    assert_same(net, model, 1e-4)


@every_pair
def test_averaging_is_their_average_of_weights(ours, theirs):
    net = network()
    model = module(net)
    average = torch.optim.swa_utils.AveragedModel(model)
    optimizer = theirs(groups(model))
    optimizer.register_step_post_hook(lambda *_: average.update_parameters(model))
    train(model, optimizer)
    fit(net, dataclasses.replace(ours, averaging=0.999))
    assert_same(net, average.module)


@pytest.mark.parametrize("weights", [[1.0, 2.0, 0.5], [3.0, 0.0, 1.0]], ids=str)
def test_weights_of_classes(weights):
    """Batch by batch: theirs divides by the weights of the batch's labels."""
    net = network()
    model = module(net)
    train(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        torch.nn.CrossEntropyLoss(weight=torch.tensor(weights, dtype=torch.float64)),
    )
    tables = [np.array(weights)[labels] for _, labels in batches()]
    weighted = [(X, labels, w / w.mean()) for (X, labels), w in zip(batches(), tables, strict=True)]
    net.fit(weighted, epochs=STEPS // 2, optimizer=bp.SGD(0.1), progress=False)
    assert_same(net, model)
    for net in (network(), network()):
        X, labels = batches()[0]
        model = module(net)
        x, y = torch.tensor(X.T.copy()), torch.tensor(labels)
        loss = torch.nn.CrossEntropyLoss(weight=torch.tensor(weights, dtype=torch.float64))
        cost = loss(model(x), y)
        cost.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad
        history = net.fit(
            X,
            labels,
            epochs=1,
            batch_size=X.shape[1],
            class_weight=dict(enumerate(weights)),
            optimizer=bp.SGD(0.1),
            progress=False,
        )
        assert history.cost[0] == pytest.approx(cost.item(), rel=1e-12)
        assert_same(net, model, 1e-13)


@pytest.mark.parametrize("ε", [0.05, 0.5])
def test_label_smoothing(ε):
    net = network(label_smoothing=ε)
    model = module(net)
    loss = torch.nn.CrossEntropyLoss(label_smoothing=ε)
    X, labels = batches()[0]
    plan = net.plan(len(labels), bp.SGD(0.0001))
    plan.load(X, labels)
    expected = loss(model(torch.tensor(X.T.copy())), torch.tensor(labels)).item()
    assert plan.run().cost == pytest.approx(expected, rel=1e-12)
    net = network(label_smoothing=ε)
    train(model, torch.optim.SGD(model.parameters(), lr=0.1), loss)
    fit(net, bp.SGD(0.1))
    assert_same(net, model)


@pytest.mark.parametrize("dropout", [[0.0, 0.5, 0.0], [0.25, 0.0, 0.0], [0.2, 0.5, 0.3]], ids=str)
def test_gradients_with_the_same_masks(dropout):
    net = network(dropout=dropout)
    X, labels = batches()[0]
    x, y = torch.tensor(X), torch.tensor(labels)
    plan = net.plan(len(labels), bp.SGD(0.1))
    plan.load(X, labels)
    model = module(net)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(10):
        plan.run()
        drawn = iter([op.output for op in plan.operations if op.name == "dropout mask"])
        a = x.T
        for l, layer in enumerate([model[:2], model[2:4], model[4:]]):
            if dropout[l]:
                mask = torch.tensor(next(drawn))
                a = a * (mask if l == 0 else mask.T)
            a = layer(a)
        optimizer.zero_grad()
        cost = torch.nn.functional.cross_entropy(a, y)
        assert plan.cost == pytest.approx(cost.item(), rel=1e-12)
        cost.backward()
        optimizer.step()
    assert_same(net, model, 1e-12)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_masks_have_the_values_that_theirs_have(p):
    net = bp.Network([2, 500, 2], dropout=p, backend="numpy", dtype="float64", rng=0)
    plan = net.plan(100, bp.SGD(0.1))
    plan.load(np.ones((2, 100)), np.ones((2, 100)))
    plan.run()
    (ours,) = (op.output for op in plan.operations if op.name == "dropout mask")
    torch.manual_seed(0)
    theirs = torch.nn.Dropout(p)(torch.ones((500, 100), dtype=torch.float64)).numpy()
    np.testing.assert_allclose(np.unique(ours), np.unique(theirs), rtol=1e-15)
    spread = 5 * math.sqrt(2 * p * (1 - p) / ours.size)
    assert (ours == 0).mean() == pytest.approx((theirs == 0).mean(), abs=spread)


def rates(make, epochs, monitored=None):
    """The learning rate that one of their schedulers gives each epoch, from 0.5 on."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler = make(optimizer)
    found = []
    for epoch in range(epochs):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step(*([] if monitored is None else [monitored[epoch]]))
    return found


SCHEDULERS = torch.optim.lr_scheduler


@pytest.mark.parametrize(
    ("ours", "theirs", "epochs"),
    [
        (
            bp.schedules.StepDecay(0.5, 0.3, every=4),
            lambda o: SCHEDULERS.StepLR(o, step_size=4, gamma=0.3),
            30,
        ),
        (
            bp.schedules.Cosine(0.5, epochs=20, final=0.01),
            lambda o: SCHEDULERS.CosineAnnealingLR(o, T_max=20, eta_min=0.01),
            21,
        ),
        (
            bp.schedules.InverseScaling(0.5, power=0.7),
            lambda o: SCHEDULERS.LambdaLR(o, lambda epoch: (1 + epoch) ** -0.7),
            30,
        ),
        (
            bp.schedules.WarmUp(0.5, epochs=8),
            lambda o: SCHEDULERS.LinearLR(o, start_factor=1e-9, total_iters=8),
            20,
        ),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, bp.schedules.Schedule) else "",
)
def test_schedules(ours, theirs, epochs):
    found = [ours.rate(epoch) for epoch in range(epochs)]
    np.testing.assert_allclose(found, rates(theirs, epochs), rtol=1e-7, atol=6e-4 * (found[0] < 0.01))
    np.testing.assert_allclose(found[1:], rates(theirs, epochs)[1:], rtol=1e-7)


@settings(max_examples=200)
@given(
    monitored=st.lists(st.integers(0, 12).map(lambda n: n / 4), min_size=1, max_size=40),
    factor=st.sampled_from([0.1, 0.5]),
    patience=st.integers(1, 5),
    min_delta=st.sampled_from([0.0, 0.25, 0.6]),
)
def test_lowering_the_rate_on_a_plateau(monitored, factor, patience, min_delta):
    """Theirs waits for one epoch more than its `patience`."""

    def theirs(optimizer):
        return SCHEDULERS.ReduceLROnPlateau(
            optimizer,
            factor=factor,
            patience=patience - 1,
            threshold=min_delta,
            threshold_mode="abs",
            eps=0.0,
        )

    ours = bp.schedules.OnPlateau(0.5, factor, patience, min_delta)
    found = [ours.rate(epoch, monitored[:epoch]) for epoch in range(len(monitored))]
    np.testing.assert_allclose(found, rates(theirs, len(monitored), monitored), rtol=1e-12)
