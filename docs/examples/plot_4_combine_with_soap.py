"""
Combine walks with SOAP
=======================

Other features and other regressors go into the same pipelines: SOAP of DScribe, alone and side by side with
sums over closed walks, with a ridge regression and with small networks, for local densities of states.
"""

# %%
# DScribe is optional: ``pip install dscribe``. Without it, this page shows the walks alone.

from importlib.util import find_spec

from sklearn.linear_model import Ridge
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import StandardScaler

from tinynet_sklearn import CycleMomentFeaturizer, PerAtom, PerAtomRegressor, load_batio3

data = load_batio3("ldos")
curves = data.target.aligned("centroid")
cut = 60

features = {
    "walks": CycleMomentFeaturizer(
        n=8, N=0, paths="simple", bonds=data.bonds, aggregate="sum", order="value", frame="lab"
    )
}
if find_spec("dscribe"):
    from tinynet_sklearn import DScribeFeaturizer

    features["SOAP"] = DScribeFeaturizer("soap", r_cut=6.0, n_max=4, l_max=4, sigma=0.3)
    features["both"] = FeatureUnion([("walks", features["walks"]), ("soap", features["SOAP"])])
else:
    print("DScribe is not installed: no SOAP on this page")

# %%
# One row per atom all the way: ``PerAtom`` scales columns, ``PerAtomRegressor`` hands the rows of each
# species to a ridge regression of its own, whose penalty is chosen on the training structures. The errors
# are those of the other structures, which are independent draws.

from sklearn.model_selection import GridSearchCV, KFold

from tinynet_sklearn import BPNNRegressor, ldos_report
from tinynet_sklearn.ldos_metrics import ldos_rmse_scorer

ridge = GridSearchCV(
    make_pipeline(PerAtom(StandardScaler()), PerAtomRegressor(Ridge(), per_species=True)),
    {"peratomregressor__estimator__alpha": [0.01, 0.1, 1.0, 10.0]},
    scoring=ldos_rmse_scorer,
    cv=KFold(3),
)
network = BPNNRegressor((16, 32), n_components=0.999, max_iter=200, early_stopping=True, random_state=0)
scores = {"ridge": {}, "networks": {}}
for name, featurizer in features.items():
    train, test = featurizer.fit_transform(data.structures[:cut]), featurizer.transform(data.structures[cut:])
    label = f"{name}, {train.shape[1]} columns"
    for model, regressor in (("ridge", ridge), ("networks", network)):
        predicted = regressor.fit(train, curves[:cut]).predict(test)
        scores[model][label] = ldos_report(curves[cut:], predicted)["all"]["r2"]

# %%
# R² about the mean curve of each species: 0 is what one knows without any features.

import matplotlib.pyplot as plt
import numpy as np

figure, ax = plt.subplots(figsize=(6.5, 3), layout="constrained")
for k, (model, found) in enumerate(scores.items()):
    places = np.arange(len(found)) + 0.38 * (k - 0.5)
    bars = ax.barh(places, list(found.values()), height=0.36, label=model, color=("0.8", "tab:blue")[k])
    ax.bar_label(bars, fmt="%.2f", padding=3)
ax.set_yticks(np.arange(len(features)), list(scores["ridge"]))
ax.invert_yaxis()
ax.set(xlabel="R² on structures kept aside", xlim=(0, 1))
ax.legend(ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)
plt.show()

# %%
# Joined columns are not better as such: there are more of them to fit with the same structures.
# :doc:`/ldos` compares features with several seeds and a second material. Columns of SOAP have no
# derivatives here and no directions: for forces, take the features of this package.
