#!/usr/bin/env bash
# Snakemake runs this in the new environment, from the directory in which it was started: install the package from there.
set -euo pipefail
if [ ! -f pyproject.toml ]; then
    echo "envs/conffusion.post-deploy.sh: no pyproject.toml in $PWD; start snakemake in the directory of the clone" >&2
    exit 1
fi
python -m pip install --quiet --no-deps --no-build-isolation --editable .
