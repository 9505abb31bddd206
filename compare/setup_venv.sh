#!/usr/bin/env bash
# Makes the Python environment of the comparisons: compare/.venv, or the folder named by $ONNXQ_VENV.
#   compare/setup_venv.sh            the harness and the peer tools
#   compare/setup_venv.sh --no-peers the harness only (what CI needs)
# Does nothing when the environment already holds what the requirements files ask for.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
venv=${ONNXQ_VENV:-$here/.venv}
files=("$here/requirements.txt")
case ${1-} in
  "") files+=("$here/requirements-peers.txt") ;;
  --no-peers) ;;
  *) sed -n '2,5s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac

# One stamp per requirements file: an environment with peers also serves --no-peers.
stale=()
for file in "${files[@]}"; do
  stamp=$venv/.stamp-$(basename "$file")
  [ "$(cat "$stamp" 2>/dev/null)" = "$(sha256sum <"$file")" ] || stale+=("$file")
done
if [ ${#stale[@]} -eq 0 ]; then
  echo "up to date: $venv"
  exit 0
fi

python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python 3.11 or newer is needed" >&2; exit 2; }
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
arguments=()
for file in "${files[@]}"; do arguments+=(-r "$file"); done
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check "${arguments[@]}"
for file in "${stale[@]}"; do sha256sum <"$file" >"$venv/.stamp-$(basename "$file")"; done
echo "ready: $venv"
