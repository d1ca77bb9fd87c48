"""How Sphinx builds these pages: `make docs`."""

project = "flare-lite"
author = "The flare-lite authors"
extensions = ["myst_parser"]
exclude_patterns = ["README.md"]  # the front page of this folder on forges, and part of index.rst
html_theme = "furo"
html_title = "flare-lite"
html_show_copyright = False
# Headings get the anchors that forges give them, so that a link to one works in both.
myst_heading_anchors = 3
