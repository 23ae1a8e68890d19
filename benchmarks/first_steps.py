"""The way of a first-time user, timed: the commands of docs/first-steps.md, in a fresh folder.

    python benchmarks/first_steps.py [--keep folder] [--quiet]

Every line of every ```bash block is run as it stands on the page, in one shell each, in a folder that holds
nothing but a clean checkout of the package. Fails at the first command that does.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "first-steps.md"


def commands(page=PAGE):
    """Lines of the bash blocks; one that ends in a backslash goes on."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [" ".join(line.split()) for line in lines if line.strip()]


def checkout(folder):
    """Copy the tracked files, as they are committed, into a folder."""
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, check=True, capture_output=True).stdout  # noqa: S607
    folder.mkdir(parents=True)
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, check=True)  # noqa: S607


def run(folder, quiet=False):
    """Run all commands and print the seconds that each took."""
    # What is activated here must not be what answers there.
    environment = {
        name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")
    }
    activated = f"{folder / '.venv' / 'bin'}:{os.environ['PATH']}"
    total = 0.0
    for command in commands():
        start = time.perf_counter()
        done = subprocess.run(
            ["bash", "-c", command],  # noqa: S607
            cwd=folder,
            env={**environment, "PATH": activated},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        seconds = time.perf_counter() - start
        total += seconds
        if not quiet or done.returncode:
            print(done.stdout, end="", flush=True)
        print(f"{seconds:7.1f} s  {command}", flush=True)
        if done.returncode:
            sys.exit(f"exit code {done.returncode}: {command}")
    print(f"{total:7.1f} s  altogether")


def main():
    """Run the page in a fresh folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--keep", type=Path, help="run in this new folder and leave it there")
    parser.add_argument("--quiet", action="store_true", help="print times, and output only of what fails")
    arguments = parser.parse_args()
    if arguments.keep is not None:
        checkout(arguments.keep)
        run(arguments.keep.resolve(), arguments.quiet)
        return
    parent = Path(tempfile.mkdtemp())
    try:
        checkout(parent / "tinynet_sklearn")
        run(parent / "tinynet_sklearn", arguments.quiet)
    finally:
        shutil.rmtree(parent)


if __name__ == "__main__":
    main()
