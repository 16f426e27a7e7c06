# shellcheck shell=bash
# highwater without a model: the lake alone. PostgreSQL has the list of its files.

highwater_lake_present() { true; }

highwater_lake_version() { highwater_version; }

highwater_lake_launch() {
  mkdir "$COMPARE_WORK/models" || return
  highwater_measure "$COMPARE_WORK/models" --lake-only
}
