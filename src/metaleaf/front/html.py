"""Text in a notebook."""

from markupsafe import escape

from metaleaf.terminal.visible import visible


def escaped(text: str) -> str:
    """The text as HTML shows it, without what a stranger's record could do to a page."""
    return str(escape("\n".join(map(visible, text.split("\n")))))
