# shellcheck shell=bash
# highwater itself, as cargo built it.

highwater_present() { true; }

highwater_version() { "$HIGHWATER_BENCH_BINARY" --version | cut -d ' ' -f 2; }

highwater_launch() { highwater_measure "$COMPARE_INPUT/models"; }

# highwater_measure MODELS [OPTION…]: with the options of `measure`.
highwater_measure() {
  local models=$1
  shift
  measure "$@" -- env HIGHWATER_TOPICS="$COMPARE_INPUT/topics" HIGHWATER_MODELS="$models" \
    HIGHWATER_BROKERS="$COMPARE_BROKERS" HIGHWATER_GROUP="$COMPARE_TOPIC-highwater" \
    HIGHWATER_WAREHOUSE="$COMPARE_DATABASE" HIGHWATER_LAKE="file://$COMPARE_LAKE" HIGHWATER_LISTEN=127.0.0.1:0 \
    "$HIGHWATER_BENCH_BINARY" run --until-caught-up
}
