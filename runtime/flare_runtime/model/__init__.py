"""A bundle: its manifest, its networks, and the checks that both pass before an engine sees them."""
