"""Time and memory of the embedding: 798 frames of 40-atom BaTiO3, one core.

usage: taskset -c 0 python benchmarks/embedding_speed.py [--data FOLDER] [--repeat 5]
"""

import argparse
import resource
import statistics
import time

import batio3_aimd

from tinynet_sklearn import CycleMomentFeaturizer


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=batio3_aimd.DEFAULT_DATA)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    train, test = batio3_aimd.load(options.data)
    frames = train["structures"] + test["structures"]
    n_atoms = sum(len(frame) for frame in frames)
    CycleMomentFeaturizer(n=2, N=1, paths="simple", bonds=batio3_aimd.BONDS).fit_transform(
        frames[:2]
    )  # compile
    print(f"{len(frames)} frames, {n_atoms} atoms")
    print("simple cycles, unique neighbours, merged reversals, site frames")
    print(f"{'':8s} {'columns':>8s} {'fit s':>8s} {'transform s':>12s} {'us/atom':>8s} {'peak GB':>8s}")
    for n, N in ((4, 2), (6, 4)):
        fits, transforms = [], []
        for _ in range(options.repeat):
            featurizer = CycleMomentFeaturizer(n=n, N=N, paths="simple", bonds=batio3_aimd.BONDS)
            start = time.perf_counter()
            featurizer.fit(frames)
            fitted = time.perf_counter()
            features = featurizer.transform(frames)
            fits.append(fitted - start)
            transforms.append(time.perf_counter() - fitted)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        seconds = statistics.median(transforms)
        print(
            f"L{n}({N})    {features.shape[1]:8d} {statistics.median(fits):8.2f} {seconds:12.2f} "
            f"{1e6 * seconds / n_atoms:8.2f} {peak:8.2f}"
        )


if __name__ == "__main__":
    main()
