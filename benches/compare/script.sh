# shellcheck shell=bash
# A script of one's own (script.py), with the libraries of requirements.txt.

script_present() { python_present; }

script_install() { python_install; }

script_version() { sed -n 's/^polars==/polars /p' "$HERE/requirements.txt"; }

script_launch() { measure -- "$PYTHON_HOME/bin/python" "$HERE/script.py"; }
