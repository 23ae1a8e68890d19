"""
Choose n and N with a grid search
=================================

How long the closed walks are (n) and how far the neighbours reach (N) are parameters of a step in a
Pipeline, so ``GridSearchCV`` chooses them. The heat map shows what the choice is worth.
"""

# %%
# DFT forces of :math:`\alpha`-MoO\ :sub:`3`, 81 structures that were drawn independently. Sixteen are kept
# aside until the choice is made: the best score of a search is chosen for being the best, and a little too
# good.

from sklearn.model_selection import GridSearchCV, GroupKFold, GroupShuffleSplit
from sklearn.pipeline import Pipeline

from tinynet_sklearn import BPNNRegressor, CycleMomentFeaturizer, load_moo3

data = load_moo3()
split = GroupShuffleSplit(test_size=16, random_state=0)
train, test = next(split.split(data.structures, groups=data.groups))
structures = [data.structures[i] for i in train]
held_out = [data.structures[i] for i in test]

# %%
# ``groups`` keeps together what belongs together. Here each structure is its own group; of a trajectory,
# blocks of time would be (:func:`~tinynet_sklearn.time_blocks`). ``max_iter`` is small to be quick.

pipe = Pipeline(
    [
        ("embed", CycleMomentFeaturizer(bonds=data.bonds)),
        ("net", BPNNRegressor((16, 32), max_iter=80, early_stopping=True, alpha=1e-4, random_state=0)),
    ]
)
search = GridSearchCV(
    pipe,
    {"embed__n": [0, 2, 4], "embed__N": [0, 1, 2, 3]},
    scoring="neg_root_mean_squared_error",
    cv=GroupKFold(3),
)
search.fit(structures, data.target[train], groups=data.groups[train])

# %%
# Columns are N, rows are n, and the colour is the error of the held-out folds. Forces need neighbours (N),
# and of the second shell most; walks (n) add to it.

from tinynet_sklearn import GridHeatmapDisplay

GridHeatmapDisplay.from_search(search, quantity="force RMSE", unit="eV/Å").figure_

# %%
# The errors of neighbouring cells differ by less than those of folds: among equals, take the shortest
# vectors.

best = search.best_index_
spread = search.cv_results_["std_test_score"][best]
print("best:", search.best_params_, f"with {-search.best_score_:.3f} ± {spread:.3f} eV/Å")

# %%
# The error that counts: structures that neither the training nor the choice has seen.

from tinynet_sklearn.metrics import force_rmse

error = force_rmse(data.target[test], search.predict(held_out))
print(f"kept aside: {error:.3f} eV/Å; forces themselves: {data.target[test].values.std():.2f} eV/Å")
