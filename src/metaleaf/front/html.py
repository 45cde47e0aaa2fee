"""Text in a notebook."""

from markupsafe import escape

from metaleaf.terminal.visible import visible


def as_text(text: str) -> str:
    """The text as a page shows it line by line, without what a stranger's record could do to that."""
    shown = escape("\n".join(map(visible, text.split("\n"))))
    return f'<pre style="font-family: monospace">{shown}</pre>'
