"""What new users type first: it works, or the error says what to type."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from strategies import looped

import bpengine as bp

XOR = [[0, 0, 1, 1], [0, 1, 0, 1]]
DIGITS, LABELS = (array[..., :60] for array in bp.datasets.digits())
QUIET = {"epochs": 2, "progress": False}


class Sparse:
    """A matrix of SciPy, as far as it matters."""

    def toarray(self):
        return DIGITS


def names():
    """A small network and its data, made anew for each statement."""
    net = bp.Network([64, 10, 10], rng=0)
    data = {"X": DIGITS, "labels": LABELS, "XOR": XOR, "Sparse": Sparse, "shown": []}
    return {"bp": bp, "np": np, "net": net, "QUIET": QUIET, **data}


WORK = [
    # a reader of the chapter
    "bp.Network([2, 3, 1])(XOR)",
    "bp.Network([2, 3, 1]).fit(XOR, [[0, 1, 1, 0]], **QUIET)",
    "bp.Network([2, 3, 1]).fit(XOR, [0, 1, 1, 0], **QUIET)",
    "bp.Network([2, 3, 1]).fit(np.array(XOR), np.array([0, 1, 1, 0]), **QUIET)",
    "bp.Network([2, 3, 1]).fit(np.array(XOR, bool), [False, True, True, False], **QUIET)",
    "bp.Network((784, 30, 10))",
    "bp.Network([64, 100, 10]).fit(X, labels, **QUIET)",
    "net.fit(X, labels, batch_size=10, optimizer=bp.SGD(3.0), **QUIET)",
    "net.fit(X, bp.one_hot(labels, 10), **QUIET)",
    "net.backprop(X, labels).weights[0]",
    "net.weights[0].shape, net.biases[0].shape, net.sizes",
    "net.evaluate(X, labels)['accuracy']",
    "net.feedforward(X[:, :1])",
    "bp.check_gradient(net, X[:, :3], labels[:3]).passed",
    "bp.Network([64, 10], cost='binary_cross_entropy').fit(X, labels, **QUIET)",
    "bp.Network([64, 10], 'softmax', 'softmax_cross_entropy').fit(X, labels, **QUIET)",
    "bp.Network([64, 10], initializer='gaussian')",
    "bp.Network([64, 10], l2=0.1, dropout=0.0)",
    # a user of scikit-learn
    "net.fit(X, labels, **QUIET).cost and net.predict(X).shape",
    "bp.Network([64, 10], 'logistic').predict(X)",
    "bp.Network([64, 1], ['identity']).predict(X).shape",
    "net.partial_fit(X, labels)",
    "net.fit(X, labels, sample_weight=np.ones(60), **QUIET)",
    "net.fit(X, labels, class_weight='balanced', **QUIET)",
    "net.fit(X, labels, class_weight={3: 2.0}, **QUIET)",
    # an engineer who has JAX and PyTorch
    "net(X)",
    "net.fit(X, labels, optimizer='adam', **QUIET)",
    "net.fit(X, labels, optimizer='lbfgs', **QUIET)",
    "net.fit(X, labels, optimizer=bp.Adam(), **QUIET)",
    "net.fit(X, labels, optimizer=bp.AdamW(weight_decay=0.1), **QUIET)",
    "net.fit(X, labels, validation=(X, labels), **QUIET)['validation_cost']",
    "net.fit(X, labels, validation=0.25, **QUIET)['cost'][-1]",
    "net.fit([(X, labels), (X, labels)], **QUIET)",
    "net.fit(X, labels, callbacks=[bp.EarlyStopping(patience=2)], validation=0.2, **QUIET)",
    "net.fit(X, labels, callbacks=[lambda training: None], **QUIET)",
    "bp.Network([64, 10], 'relu', backend='numpy', device='cpu')",
    "net.astype('float64').dtype, net.to('numpy').backend",
    "net.plan(10), net.plan(10, 'sgd'), net.plan(batch_size=10, optimizer=bp.Adam())",
    "bp.Network([64, 10], stack=3).fit(X, labels, **QUIET)",
    "next(iter(bp.per_example_gradients(net, X, labels)))",
    "bp.input_gradients(net, X, labels)",
    "[str(thing) for thing in (net, net.parameters, net.cost, net.plan(2), net.activations)]",
    "net.plan(2).operations, bp.Curvature(net, X, labels), bp.book.network.Network([2, 1])",
    "net.fit(X, labels, callbacks=[lambda training: shown.append(repr(training))], **QUIET) and shown",
    "len(bp.Network([2, 2], stack=3)), bp.Network([2, 2], stack=3)[0]",
    "net.vector[:3], net.history",
    "dir(bp), dir(net)",
    "[bp.plots.training_curves, bp.estimators.MLPClassifier, bp.book, bp.timing] and None",
    "bp.estimators.MLPClassifier((5,), tol=1e9, n_iter_no_change=1).fit(X.T, labels).score(X.T, labels)",
    "bp.estimators.MLPRegressor(hidden_layer_sizes=(5,), max_iter=1, tol=1e9).predict and None",
    "bp.Network(sizes=[2, 3, 1], activations='sigmoid', cost='quadratic', rng=0)",
    "bp.Network([2, 3, 1], rng=np.random.default_rng(0))",
    "bp.Network([64, 10], dtype=np.float64), bp.Network([64, 10], dtype='double')",
    "net.weights[1][0, 0], net.parameters.vector[0]",
    "net.fit(X.tolist(), labels.tolist(), **QUIET)",
    "net.fit(X, labels, optimizer=bp.SGD(0.1, momentum=0.9, nesterov=True), **QUIET)",
    "net.fit(X, labels, optimizer=bp.SGD(0.1, weight_decay=1e-4), **QUIET)",
    "net.fit(X, labels, optimizer=bp.SGD(bp.schedules.StepDecay(0.1, 10)), **QUIET)",
    "net.fit(X, labels, batch_size=None, shuffle=False, **QUIET)",
    "net.backprop(X[:, :1], labels[:1])",
    "bp.stack([net, net])",
    "bp.check_gradient(net, X, labels, tolerance=1e-5)",
    # one who adds an activation or a cost
    "bp.Network([64, 9, 10], [bp.Activation('sine', np.sin, np.cos), 'sigmoid']).fit(X, labels)",
    "bp.Network([64, 10], 'linear', bp.Cost('fourth', lambda a, y: ((a - y) ** 4).sum(-2), "
    "lambda a, y: 4 * (a - y) ** 3))(X)",
]


@looped("statement", WORK)
def test_a_statement_works(statement):
    assert " at 0x" not in repr(eval(statement, names()))


SAY = [
    # attributes of other libraries
    ("net.score(X, labels)", "evaluate(X, Y)['accuracy']"),
    ("net.summary()", "print(net)"),
    ("net.forward(X)", "feedforward(X)"),
    ("net.backward()", "backprop(X, Y)"),
    ("net.train()", "fit(X, Y)"),
    ("net.eval()", "feedforward has no dropout"),
    ("net.predict_proba(X)", "feedforward(X)"),
    ("net.coefs_", "weights"),
    ("net.layers", "sizes, activations, weights"),
    ("net.compile(loss='mse')", "arguments of Network"),
    ("net.state_dict()", "save(path)"),
    ("net.load_state_dict({})", "bp.load(path)"),
    ("net.get_weights()", "weights and biases"),
    ("net.zero_grad()", "a new gradient"),
    ("net.cuda()", "to(backend)"),
    ("net.cpu()", "to(backend='numpy')"),
    ("net.fedforward(X)", "no attribute 'fedforward'"),
    # arguments
    ("bp.Network([64, 10], activation='tanh')", "activations='tanh'"),
    ("bp.Network([64, 10], loss='quadratic')", "cost="),
    ("bp.Network([64, 10], seed=0)", "rng="),
    ("bp.Network([64, 10], random_state=0)", "rng="),
    ("bp.Network([64, 10], lr=0.1)", "optimizer=bp.SGD(0.1)"),
    ("bp.Network([64, 10], learning_rate=0.1)", "optimizer=bp.SGD(0.1)"),
    ("bp.Network(hidden_layer_sizes=(10,))", "sizes=[64, 100, 10]"),
    ("bp.Network([64, 10], kernel_initializer='he_normal')", "initializer="),
    ("bp.Network([64, 10], drop_out=0.5)", "Did you mean dropout=?"),
    ("bp.Network([64, 10], alpha=0.1)", "l2="),
    ("bp.Network([64, 10], device='cuda')", "name the backend too"),
    ("bp.Network(64, 10)", "sizes must be a sequence"),
    ("bp.Network([64])", "2 layers or more"),
    ("net.fit(X, labels, epoch=2)", "Did you mean epochs=?"),
    ("net.fit(X, labels, n_epochs=2)", "epochs="),
    ("net.fit(X, labels, max_iter=2)", "epochs="),
    ("net.fit(X, labels, verbose=0)", "progress="),
    ("net.fit(X, labels, lr=0.1)", "optimizer=bp.SGD(0.1)"),
    ("net.fit(X, labels, momentum=0.9)", "bp.SGD(0.1, momentum=0.9)"),
    ("net.fit(X, labels, validation_data=(X, labels))", "validation=(X, Y)"),
    ("net.fit(X, labels, validation_split=0.1)", "validation=0.1"),
    ("net.fit(X, labels, validation_fraction=0.1)", "validation=0.1"),
    ("net.fit(X, labels, patience=3)", "bp.EarlyStopping(patience=5)"),
    ("net.fit(X, labels, solver='adam')", "optimizer="),
    ("net.fit(X, labels, batchsize=3)", "Did you mean batch_size=?"),
    ("net.partial_fit(X, labels, epochs=3)", "epochs= is an argument of fit"),
    ("net.partial_fit(X, labels, xyz=3)", "Known: X, Y, batch_size"),
    ("net.fit(X, labels, loss='quadratic')", "cost= is an argument of Network"),
    ("net.fit(X, labels, dropout=0.5)", "dropout= is an argument of Network"),
    ("net.fit(X, labels, activation='tanh')", "is an argument of Network"),
    ("bp.Network([64, 10], epochs=3)", "epochs= is an argument of fit"),
    ("bp.SGD(lr=0.1)", "learning_rate=."),
    ("bp.SGD(eta=0.1)", "learning_rate=."),
    ("bp.Adam(betas=(0.9, 0.999))", "beta_1="),
    ("bp.Adam(eps=1e-8)", "epsilon="),
    ("bp.EarlyStopping(patient=3)", "Did you mean patience=?"),
    # values
    ("bp.Network([64, 10], 'Sigmoid')", "Did you mean 'sigmoid'?"),
    ("bp.Network([64, 10], 'silu')", "Here it is 'swish'"),
    ("bp.Network([64, 10], cost='mse')", "Here it is 'quadratic'"),
    ("bp.Network([64, 10], cost='cross_entropy')", "Here it is 'softmax_cross_entropy'"),
    ("bp.Network([64, 10], cost='categorical_crossentropy')", "Here it is 'softmax_cross_entropy'"),
    ("bp.Network([64, 10], cost='softmax_cross_entropy')", "activations=[…, 'softmax']"),
    ("bp.Network([64, 10], 'relu', cost='binary_cross_entropy')", "'sigmoid'"),
    ("bp.Network([64, 10], initializer='xavier')", "Here it is 'glorot_uniform'"),
    ("bp.Network([64, 10], backend='cuda')", "Here it is 'cupy'"),
    ("bp.Network([64, 10], backend='cpu')", "Here it is 'numpy'"),
    ("bp.Network([64, 10], dtype='float16')", "Known: float32, float64"),
    ("net.to('gpu')", "Here it is 'cupy'"),
    ("net.fit(X, labels, optimizer='adamm')", "Did you mean 'adam'?"),
    ("net.fit(X, labels, optimizer=0.1)", "bp.SGD(0.5)"),
    ("net.fit(X, labels, optimizer=bp.SGD)", "bp.SGD(0.5)"),
    ("net.fit(X, labels, batch_size=100)", "batch_size=60 or less"),
    ("net.save('net.h5')", ".npz or .safetensors"),
    ("net.save('net.pt')", ".npz or .safetensors"),
    ("net.fit(X, labels, callbacks=[bp.Checkpoint('run.pkl')], **QUIET)", ".npz or .safetensors"),
    # names with other spelling
    ("bp.Network([64, 10], 'ReLU')", "Did you mean 'relu'?"),
    ("bp.Network([64, 10], 'relu6')", "Did you mean 'relu'?"),
    ("bp.Network([64, 10], cost='mse')", "Here it is 'quadratic'"),
    ("bp.Network([64, 10], cost='cross_entropy')", "Here it is 'softmax_cross_entropy'"),
    ("bp.Network([64, 10], cost='mean_squared_error')", "Here it is 'quadratic'"),
    ("bp.Network([64, 10], initializer='xavier')", "Here it is 'glorot_uniform'"),
    ("bp.Network([64, 10], initializer='he')", "Here it is 'he_normal'"),
    ("bp.Network([64, 10], backend='cuda')", "Here it is 'cupy'"),
    ("net.to('gpu')", "Here it is 'cupy'"),
    ("net.fit(X, labels, optimizer='ADAM')", "Did you mean 'adam'?"),
    ("net.fit(X, labels, optimizer=bp.Adam(lr=0.1))", "learning_rate="),
    ("net.fit(X, labels, optimizer=bp.SGD)", "bp.SGD(0.5)"),
    ("net.SGD([(X, labels)], 30, 10, 3.0)", "bpengine.book.network"),
    ("net.update_mini_batch([(X, labels)], 0.1)", "partial_fit(X, Y)"),
    ("net.gradient(X, labels)", "backprop(X, Y)"),
    ("net.w", "weights"),
    ("net.b", "biases"),
    ("net.copy()", "copy.deepcopy(net)"),
    ("bp.tanh", "no attribute 'tanh'"),
    ("bp.MLPClassifier()", "see bpengine.estimators"),
    ("net.fit(X, labels, **QUIET)['loss']", "Here it is 'cost'"),
    ("net.fit(X, labels, **QUIET)['val_acc']", "Here it is 'validation_accuracy'"),
    ("bp.EarlyStopping(monitor='val_loss')", "Here it is 'validation_cost'"),
    ("net.fit(X, labels, callbacks=[object()])", "<object object>"),
    # values
    ("bp.Network([64.0, 10.0])", "whole numbers such as [784, 100, 10]"),
    ("bp.Network('64, 10')", "whole numbers such as [784, 100, 10]"),
    ("bp.Network([64, 10], activations=['relu', 'relu'])", "takes 1, one per layer"),
    ("bp.Network([64, 10], activations=np.tanh)", "an Activation"),
    ("bp.Network([64, 10], stack=0)", "1 or more"),
    ("bp.Adam(learning_rate=-1)", "above 0"),
    ("bp.Adam('0.1')", "must be a number"),
    ("bp.EarlyStopping(patience=0)", "1 or more"),
    ("bp.Checkpoint()", "'path'"),
    ("net.fit(X, labels, batch_size='auto')", "whole number"),
    ("net.fit(X, labels, batch_size=100)", "use batch_size=60 or less"),
    ("net.fit(X, labels, epochs=0)", "1 or more"),
    ("net.fit(X, labels, callbacks=bp.EarlyStopping())", "must be a list"),
    ("net.fit(X, labels, callbacks=['early_stopping'])", "Callback objects or functions"),
    ("net.plan()", "'batch_size'"),
    ("net.plan(10).run()", "plan.load(X, Y)"),
    ("bp.Network([2, 2], stack=3).best()", "call fit first"),
    ("bp.one_hot([0, 1, 2], 2)", "from 0 to 1"),
    # data
    ("net.fit(X, labels.astype(str))", "labels as integers"),
    ("net.predict(X[:, 0])", "X.reshape(64, -1)"),
    ("net.predict(X.T)", "Did you mean X.T?"),
    ("net.fit(X.T, labels)", "Did you mean X.T?"),
    ("net.feedforward(X[:, 0])", "X.reshape(64, -1)"),
    ("net.fit(X, labels + 1)", "from 0 to 9"),
    ("net.fit(X, labels * 1.0)", "integer labels"),
    ("net.fit(X, labels[:5])", "5 labels and X has 60 examples"),
    ("net.fit(X)", "iterable of batches"),
    ("net.fit(X * np.nan, labels)", "NaN"),
    ("bp.Network([64, 10], 'linear').fit(X, labels)", "bpengine.one_hot(labels, 10)"),
    ("net.fit('digits.csv', labels)", "dtype"),
    ("net.fit(Sparse(), labels)", "pass X.toarray()"),
]


@looped("statement, answer", SAY)
def test_an_error_says_what_to_type(statement, answer):
    with pytest.raises((TypeError, ValueError, AttributeError), match=re.escape(answer)) as caught:
        eval(statement, names())
    assert len(str(caught.value)) <= 500


def test_python_suggests_a_public_name_for_a_similar_one():
    with pytest.raises(AttributeError, match="no attribute 'adam'") as caught:
        _ = bp.adam
    assert (caught.value.name, caught.value.obj) == ("adam", bp)


def test_an_error_within_a_property_is_shown():
    of_user = type("OfUser", (bp.Network,), {"doubled": property(lambda self: self.missing * 2)})
    with pytest.raises(AttributeError, match="no attribute 'missing'"):
        _ = of_user([2, 1]).doubled


@looped("name", ["on_epoch_end", "on_train_begin", "epoch_end", "on_batch_end"])
def test_a_method_that_is_never_called_is_named(name):
    with pytest.warns(UserWarning, match=rf"Wrong\.{name} is never called: .* start, steps, epoch, end"):
        type("Wrong", (bp.Callback,), {name: lambda self, training: None})
    type("Right", (bp.Callback,), {"epoch": lambda self, training: None, "_find_end": print})


def test_a_history_shows_its_last_figures_and_is_a_table():
    history = bp.Network([64, 10], rng=0).fit(DIGITS, LABELS, validation=0.2, **QUIET)
    assert re.fullmatch(r"History\(2 epochs; the last: cost [\d.]+, validation_cost .*\)", repr(history))
    assert repr(bp.History()) == "History()"
    assert history["cost"] is history.cost
    with pytest.raises(ValueError, match=r"unknown entry 'costs'\. Did you mean 'cost'"):
        history["costs"]
    pd = pytest.importorskip("pandas", reason="needs pandas")
    frame = history.to_frame()
    assert isinstance(frame, pd.DataFrame) and list(frame.index) == [1, 2]
    assert frame["cost"].tolist() == history.cost
    of_stack = bp.Network([64, 10], rng=0, stack=2).fit(DIGITS, LABELS, **QUIET)
    assert math.isclose(of_stack.to_frame().loc[2, "cost_1"], of_stack.cost[1][1])
