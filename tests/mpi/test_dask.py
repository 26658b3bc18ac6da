"""A search of hyper-parameters over Dask's workers: joblib's interface, our estimators."""

from __future__ import annotations

import os

import numpy as np
import pytest

distributed = pytest.importorskip("distributed")
joblib = pytest.importorskip("joblib")
pytestmark = pytest.mark.filterwarnings("ignore")  # of Dask's, about ports and its own clean-up


def process(x=None):
    return os.getpid()


def test_a_search_over_a_local_cluster_finds_what_one_process_finds():
    from sklearn.model_selection import GridSearchCV

    from bpengine.estimators import MLPClassifier

    rng = np.random.default_rng(0)
    X = rng.standard_normal((120, 4))
    y = (X[:, 0] * X[:, 1] > 0).astype(int)
    net = MLPClassifier(max_iter=10, random_state=0, batch_size=20)
    grid = {"hidden_layer_sizes": [(2,), (16,)], "learning_rate_init": [0.001, 0.03]}

    def search():
        return GridSearchCV(net, grid, cv=2, n_jobs=2).fit(X, y).cv_results_

    expected = GridSearchCV(net, grid, cv=2).fit(X, y).cv_results_
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        assert os.getpid() not in client.run(process).values()
        with joblib.parallel_config(backend="dask"):
            found = search()
    np.testing.assert_array_equal(found["mean_test_score"], expected["mean_test_score"])
    np.testing.assert_array_equal(found["rank_test_score"], expected["rank_test_score"])
