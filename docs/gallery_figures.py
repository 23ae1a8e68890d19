"""What sphinx-gallery does besides: figures that pyplot does not know of, and warnings that are errors."""

import warnings
from pathlib import Path
from weakref import WeakSet

from matplotlib.figure import Figure
from sphinx_gallery.scrapers import figure_rst

_SHOWN: WeakSet = WeakSet()
_STRICT: list = []


def last_value_scraper(block, block_vars, gallery_conf):
    """Save the figure that is the value of the last line of a cell, as notebooks show it.

    Parameters
    ----------
    block : sphinx_gallery Block
        Not used.
    block_vars : dict
        Of the cell; values of last lines are under the name "___" among its globals, where an old one stays.
    gallery_conf : dict
        Configuration of sphinx-gallery.

    Returns
    -------
    str
        Markup with the figure; empty if there is none.
    """
    figure = block_vars["example_globals"].get("___")
    if not isinstance(figure, Figure) or figure in _SHOWN:
        return ""
    _SHOWN.add(figure)
    path = Path(next(block_vars["image_path_iterator"]))
    figure.savefig(path, dpi=150)
    return figure_rst([str(path)], gallery_conf["src_dir"])


def strict_warnings(gallery_conf, fname, when):
    """Make warnings of an example errors, and what was before afterwards."""
    if when == "before":
        _STRICT.append(warnings.catch_warnings(action="error"))
        _STRICT[-1].__enter__()
        # ASE up to 3.29 assigns array shapes, of which NumPy 2.5 warns.
        warnings.filterwarnings("ignore", "Setting the shape on a NumPy array", DeprecationWarning, r"ase\.")
    elif _STRICT:
        _STRICT.pop().__exit__()
