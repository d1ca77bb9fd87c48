#!/bin/sh
# Installs the source tree into an environment of its own, for an image: without pip, and without the tests of packages.
# usage: install.sh SOURCE ENVIRONMENT
set -eu
python3 -m venv --without-pip "$2"
python3 -m pip --python "$2/bin/python" install --quiet --no-cache-dir --disable-pip-version-check "$1"
find "$2" -type d -name tests -prune -exec rm -rf {} +
