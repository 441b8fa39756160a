# Sourced by the doors beside it: makes .venv and installs the pinned set, once.
# usage: setup EXTRAS     ("" for a user, "[dev]" for the tests)

find_python() {
    local candidate
    for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11; do
        if command -v "$candidate" >/dev/null 2>&1 &&
            "$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null
        then
            command -v "$candidate"
            return
        fi
    done
    echo "selfplay needs Python 3.11 to 3.13 with venv; none was found on PATH (set PYTHON=/path/to/python3.12, or: apt install python3 python3-venv)" >&2
    return 1
}

setup() {
    local extras=$1 stamp="$ROOT/.venv/.installed$1" want python
    # What is installed is up to date while these files and the place are what they were.
    want="$ROOT
$(cat "$ROOT/pyproject.toml" "$ROOT/constraints.txt")"
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ]; then return; fi
    if ! "$ROOT/.venv/bin/python" -c 'import pip' 2>/dev/null; then  # none, or begun and stopped
        python="$(find_python)" || return 1
        echo "selfplay: making $ROOT/.venv with $python" >&2
        "$python" -m venv --clear "$ROOT/.venv" || return 1
    fi
    echo "selfplay: installing the pinned set into .venv (once; a few minutes)" >&2
    # At a terminal pip shows what it fetches; a log wants no bars.
    local quiet=--quiet
    if [ -t 2 ]; then quiet=--progress-bar=on; fi
    "$ROOT/.venv/bin/python" -m pip install "$quiet" --disable-pip-version-check \
        --constraint "$ROOT/constraints.txt" --editable "$ROOT$extras" >&2 || {
        echo "selfplay: the install failed; see pip's message above. Run the same command again to retry." >&2
        return 1
    }
    printf '%s\n' "$want" >"$stamp"
}
