"""`python -m flare_runtime` is `flare-infer`."""

import sys

from flare_runtime.cli import main

sys.exit(main())
