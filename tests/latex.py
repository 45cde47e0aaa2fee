"""Compiling LaTeX tables, where there is a TeX."""

import shutil
import subprocess
from pathlib import Path

import pytest

needs_tex = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here")


def compile_within_a_page(latex: str, folder: Path) -> str:
    """Compile tables in a two-column article with 6.75 inches of text, as wide as most; returns the log.

    Fails where TeX does, or where a table is wider than the text.
    """
    head = "\\documentclass[twocolumn]{article}\\usepackage[margin=0.875in]{geometry}\\usepackage{booktabs}"
    (folder / "paper.tex").write_text(f"{head}\\begin{{document}}{latex}\\end{{document}}")
    words = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "paper.tex"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "Overfull \\hbox" not in done.stdout
    return done.stdout
