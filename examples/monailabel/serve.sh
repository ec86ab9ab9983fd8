#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Starts MONAI Label with a bundle of this repository; see README.md beside this file, or --help.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$(cd "$here/../.." && pwd)

usage() {
    cat <<'END'
Usage: serve.sh STUDIES [options]       start a server for the images in the folder STUDIES
       serve.sh --install-only          make the environment and stop

  --bundle NAME     bundle to serve: monuseg (default), hippocampus, another of bundles/, or a bundle's folder
  --app APP         bundle (default): masks, training rounds, active learning; for 3D Slicer and REST
                    pathology: polygons of nuclei; for QuPath, slides and REST
  --port PORT       port on 127.0.0.1, default 8000
  --env FOLDER      virtual environment, made if it is not there;
                    default: $MONAILABEL_ENV, or else the folder env in that of --work
  --work FOLDER     where the served copy of the bundle and the runs are kept, one bundle of each name;
                    default: ${XDG_DATA_HOME:-~/.local/share}/monai_segdiff/monailabel
  --python PROGRAM  Python 3.10 or 3.11 that makes the environment, default python3
  --help            this text

The server answers at http://127.0.0.1:PORT; Ctrl-C stops it. Nothing of it is reachable from other machines.
The weights that are served, and that training rounds replace, are a copy: those in bundles/ stay as they are.
END
}

fail() {
    printf 'serve.sh: %s\n' "$*" >&2
    exit 2
}

studies='' bundle=monuseg app=bundle port=8000 environment=${MONAILABEL_ENV:-} python=python3 install_only=false
work=${XDG_DATA_HOME:-${HOME:-.}/.local/share}/monai_segdiff/monailabel
while [ $# -gt 0 ]; do
    case $1 in
        --bundle | --app | --port | --env | --work | --python)
            [ $# -ge 2 ] || fail "$1 needs a value; see --help."
            case $1 in
                --bundle) bundle=$2 ;;
                --app) app=$2 ;;
                --port) port=$2 ;;
                --env) environment=$2 ;;
                --work) work=$2 ;;
                --python) python=$2 ;;
            esac
            shift 2
            ;;
        --install-only) install_only=true && shift ;;
        -h | --help) usage && exit 0 ;;
        -*) fail "unknown option $1; see --help." ;;
        *)
            [ -z "$studies" ] || fail "two folders of images, $studies and $1; expected one."
            studies=$1
            shift
            ;;
    esac
done

# Everything that can be wrong is looked at before minutes go into the environment.
if ! $install_only; then
    [ -n "$studies" ] || fail "no folder of images; see --help."
    [ -d "$studies" ] || fail "$studies is not a folder; expected one with png, tif, jpg or nii.gz files."
    case $app in bundle | pathology) ;; *) fail "--app is $app, expected bundle or pathology." ;; esac
    if ! [[ $port =~ ^[0-9]{1,5}$ ]] || [ "$port" -lt 1 ] || [ "$port" -gt 65535 ]; then
        fail "--port is $port, expected 1 to 65535."
    fi
    source=$bundle
    [ -f "$source/configs/inference.json" ] || source=$repository/bundles/$bundle
    [ -f "$source/configs/inference.json" ] || fail "there is no bundle $bundle in $repository/bundles, nor a folder."
    [ -f "$source/models/model.pt" ] || fail "$source has no weights, models/model.pt; its docs/README.md says how to train."
    name=$(basename "$(cd "$source" && pwd)")
    source=$(cd "$source" && pwd -P)
    [ "$app" = bundle ] || [ "$name" = monuseg ] || fail "--app pathology is for the bundle monuseg, found $name."
    model=$work/$app/model/$name
    if [ -f "$model/models/model.pt" ]; then
        origin=$(cat "$model/source.txt" 2>/dev/null || echo "an unknown folder")
        [ "$origin" = "$source" ] || fail "$model was copied from $origin, not from $source. Give this bundle a folder" \
            "of its own by --work (and by --env the environment that is there). Has it only moved? Then write its new" \
            "path into $model/source.txt."
    fi
    studies=$(cd "$studies" && pwd)
fi

mkdir -p "$work" "${environment:=$work/env}"
work=$(cd "$work" && pwd)
environment=$(cd "$environment" && pwd)

# 1. The environment, once for each version of what goes into it. This repository is not copied there, but linked.
interpreter=$environment/bin/python
mark=$environment/monai_segdiff.sha256
wanted=$(echo "$repository" | cat - "$here/constraints.txt" "$here/torchvision_cpu_shim.py" "$repository/setup.py" |
    sha256sum)
if [ "$(cat "$mark" 2>/dev/null || true)" != "$wanted" ]; then
    echo "Making the environment in $environment: some minutes, 4 GB (more with CUDA)."
    "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 12))' ||
        fail "$python is no Python 3.10 or 3.11; give one with --python."
    rm -f "$mark"
    "$python" -m venv "$environment"
    "$interpreter" -m pip install --quiet -c "$here/constraints.txt" torch torchvision monailabel -e "$repository"
    if ! "$interpreter" -c 'import torchvision' 2>/dev/null; then
        "$interpreter" -c 'import sys, torch; sys.exit(torch.version.cuda is not None)' ||
            fail "torchvision does not load: $("$interpreter" -c 'import torchvision' 2>&1 | tail -n 1)"
        site=$("$interpreter" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
        cp "$here/torchvision_cpu_shim.py" "$site/"
        echo 'import torchvision_cpu_shim' >"$site/torchvision_cpu_shim.pth"
    fi
    "$interpreter" -c 'import torchvision, monailabel.app, monai_segdiff'
    printf '%s\n' "$wanted" >"$mark"
fi
if $install_only; then
    echo "The environment is in $environment."
    exit 0
fi

# 2. The app and the bundle. Configs follow the repository; weights and runs stay.
folder=$work/$app
model=$folder/model/$name
mkdir -p "$model/models"
if [ "$app" = pathology ]; then
    installed=$environment/monailabel/sample-apps/pathology
    cp -R "$installed/." "$folder/"
    models=segdiff_nuclei
else
    models=$name
fi
cp -R "$here/$app/." "$folder/"
for part in configs docs; do
    [ ! -d "$source/$part" ] || cp -R "$source/$part" "$model/"
done
if ! [ -f "$model/models/model.pt" ]; then
    for file in model.json split.json; do
        [ ! -f "$source/models/$file" ] || cp "$source/models/$file" "$model/models/"
    done
    printf '%s\n' "$source" >"$model/source.txt"
    cp "$source/models/model.pt" "$model/models/model.pt.part"
    mv "$model/models/model.pt.part" "$model/models/model.pt"
fi

# 3. The server. It is this process from here on, so that a signal to it ends it.
export MONAI_LABEL_TRACKING_ENABLED=${MONAI_LABEL_TRACKING_ENABLED:-false}
export MONAI_LABEL_SESSION_PATH=${MONAI_LABEL_SESSION_PATH:-$work/sessions}
echo "Serving $name for $studies at http://127.0.0.1:$port"
cd "$work"
exec "$interpreter" -m monailabel.main start_server --app "$folder" --studies "$studies" --host 127.0.0.1 \
    --port "$port" --conf models "$models" --conf zoo_source ngc --conf sam2 false
