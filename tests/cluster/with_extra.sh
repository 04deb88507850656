#!/usr/bin/env bash
# An environment above $PYTHON's with a few packages more: source it, then `with_extra FOLDER PACKAGE…` sets PYTHON to it.
# Some, as Ray's launcher, want other versions than the environment below has; theirs come first. Says "skipped: reason"
# with status 77 where they cannot be installed.

with_extra() { # folder package…
  local folder=$1 below=$PYTHON pip
  shift
  "$below" -m venv --without-pip "$folder" || return
  "$below" -c 'import site; print(*site.getsitepackages(), sep="\n")' \
    >"$("$folder/bin/python" -c 'import site; print(site.getsitepackages()[0])')/below.pth"
  pip=("$below" -m pip)
  "${pip[@]}" --python "$folder/bin/python" install -q "$@" >"$folder/log" 2>&1 \
    || { echo "skipped: $* cannot be installed: $(grep -m 1 ERROR "$folder/log")"; return 77; }
  export PYTHON=$folder/bin/python
}
