"""Text of others, as it may be shown."""


def visible(text: str) -> str:
    """One line of characters that print; others are written out.

    A record's keys, a client's id or a file's name may hold what moves a terminal's cursor, turns the direction of
    text, or begins a line that looks like ours. Sentences carry such text as it is; what prints them makes it visible.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
