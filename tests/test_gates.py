"""What `.ci/run` checks is what setup.cfg promises, and every public class shows how it is used."""

import inspect
import re
import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest

import tinynet_sklearn

ROOT = Path(__file__).parent.parent
SCRIPTS = [ROOT / ".ci" / "run", ROOT / ".ci" / "smoke.sh"]


def lower_bounds(options, extras, names):
    """Names and lowest versions of the requirements; conditions ("; platform_machine ...") are left out."""
    lines = options["install_requires"].splitlines()
    lines += [line for name in names for line in extras[name].splitlines()]
    found = (re.match(r"([\w-]+)(?:\[\w+\])?>=([\w.]+)", line) for line in lines if line.strip())
    return {match[1]: match[2] for match in found}


def test_oldest_versions_are_the_lower_bounds():
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    bounds = lower_bounds(config["options"], config["options.extras_require"], ["test"])
    pinned = dict(
        line.split("==")
        for line in (ROOT / ".ci" / "oldest.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line
    )

    def number(version):
        parts = [int(part) for part in version.split(".")]
        return (*parts, *[0] * (4 - len(parts)))

    assert {name: number(pinned[name]) for name in bounds} == {name: number(v) for name, v in bounds.items()}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_scripts_can_be_run(script):
    assert script.stat().st_mode & 0o111, f"{script.name} must be executable"
    if shutil.which("bash") is None:
        pytest.skip("needs bash")
    subprocess.run(["bash", "-n", str(script)], check=True)  # noqa: S607


CLASSES = [name for name in tinynet_sklearn.__all__ if inspect.isclass(getattr(tinynet_sklearn, name))]


@pytest.mark.parametrize("name", CLASSES)
def test_public_classes_have_examples(name):
    """That they run is seen by the doctests."""
    found = getattr(tinynet_sklearn, name)
    if not issubclass(found, BaseException):
        text = inspect.getdoc(found)
        assert "Examples\n--------\n" in text, f"{name} needs an Examples section"
        assert ">>> " in text
