"""
Learn local densities of states
===============================

Closed walks are the moments of the local density of states (LDOS) of an atom, so a network can read its
LDOS off them.
"""

# %%
# The bundled data have an LDOS for every atom, as DFT gave it. They are independent structures; the last
# ones are kept aside. Energies count from the mean of the occupied states, a zero that the surroundings of
# an atom know (:doc:`/ldos` says why).

from sklearn.pipeline import make_pipeline

from tinynet_sklearn import BPNNRegressor, CycleMomentFeaturizer, LDOSDisplay, ldos_report, load_moo3

data = load_moo3("ldos")
curves = data.target.aligned("centroid")
cut = 64
print(curves)

# %%
# Walks up to six hops, no neighbours, and one network of 16 and 32 neurons for each species. The networks
# learn the principal components that hold 99.9 % of the variance of the curves.

model = make_pipeline(
    CycleMomentFeaturizer(n=6, N=0, bonds=data.bonds),
    BPNNRegressor((16, 32), n_components=0.999, max_iter=300, random_state=0, early_stopping=True),
)
model.fit(data.structures[:cut], curves[:cut])
predicted = model.predict(data.structures[cut:])

# %%
# Is it better than knowing nothing? That is the mean curve of each species: n = N = 0 predicts it.

nothing = make_pipeline(CycleMomentFeaturizer(n=0, N=0, bonds=data.bonds), BPNNRegressor(random_state=0))
nothing.fit(data.structures[:cut], curves[:cut])
for name, guess in (("walks", predicted), ("mean curves", nothing.predict(data.structures[cut:]))):
    found = ldos_report(curves[cut:], guess)["all"]
    print(f"{name}: RMSE {found['rmse']:.3f} states/eV/atom, R² {found['r2']:.2f}")

# %%
# For each species the atom whose error is closest to the mean; the insets show all atoms.

LDOSDisplay.from_predictions(curves[cut:], predicted).figure_

# %%
# Sums over atoms are the density of states of the crystal, here of the first structure.

LDOSDisplay.from_predictions(curves[cut:], predicted, kind="total", which=[0]).figure_
