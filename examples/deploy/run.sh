#!/usr/bin/env bash
# Segment a DICOM series: run.sh -i SERIES -o OUTPUT [-m BUNDLE]. The first run makes the environment, in
# $MONAI_DEPLOY_ENV or in .venv beside this file.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
environment=${MONAI_DEPLOY_ENV:-$here/.venv}

if [ ! -e "$environment/monai-deploy-ready" ]; then
    python3 -m venv "$environment"
    "$environment/bin/pip" install --quiet torch==2.13.0
    "$environment/bin/pip" install --quiet -r "$here/requirements.txt"
    "$environment/bin/pip" install --quiet --no-deps -e "$root"
    touch "$environment/monai-deploy-ready"
fi

ulimit -S -s 32768 2>/dev/null || true # Holoscan warns about less
export HOLOSCAN_LOG_LEVEL=${HOLOSCAN_LOG_LEVEL:-WARN}
exec "$environment/bin/python" "$here/app.py" -l WARN -m "$root/bundles/hippocampus" "$@"
