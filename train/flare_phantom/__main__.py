"""`python -m flare_phantom`: write phantom CT scans and their labels."""

import sys

from flare_phantom.phantom import main

if __name__ == "__main__":
    sys.exit(main())
