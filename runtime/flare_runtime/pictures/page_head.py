"""How every page of a case begins, by which one of an earlier run is known."""

# In a module of its own: a run without pages is not to wait for the import of what makes them.
PAGE_HEAD = b"<!doctype html>\n<!-- flare-lite page -->\n"


def is_page(head: bytes) -> bool:
    """Whether a file that begins so is a page that this program made."""
    return head.startswith(PAGE_HEAD)
