# shellcheck shell=bash
# Flink SQL (flink.sql) in a mini cluster, all in one process (RunSql.java), from the jars of Maven
# Central (flink.pom.xml). Needs a JDK of 17 or later.

FLINK_VERSION=2.2.0
FLINK_HOME=$SERVICES/flink-$FLINK_VERSION

flink_present() { [ -d "$FLINK_HOME" ]; }

flink_install() {
  need javac default-jdk-headless
  jars_of flink "$FLINK_HOME" libs -Dflink.version=$FLINK_VERSION
}

flink_version() { echo $FLINK_VERSION; }

flink_launch() {
  javac -cp "$FLINK_HOME/libs/*" -d "$COMPARE_WORK/classes" "$HERE/RunSql.java" || return
  sql "$COMPARE_DATABASE" '
    CREATE TABLE taps_by_stop_5m (
      window_start timestamptz, stop_id text, mode text,
      taps bigint, fare_cents bigint, fare_cents_min bigint, fare_cents_max bigint,
      PRIMARY KEY (window_start, stop_id, mode))' || return
  [[ $COMPARE_DATABASE =~ ^postgres(ql)?://([^:@/]+)(:([^@/]*))?@([^?]+)$ ]] ||
    die "not postgres://USER[:PASSWORD]@HOST:PORT/NAME: ${COMPARE_DATABASE%%@*}@…"
  export COMPARE_JDBC="jdbc:postgresql://${BASH_REMATCH[5]}?user=${BASH_REMATCH[2]}&password=${BASH_REMATCH[4]}"
  # Flink's serialisers look into these packages of Java.
  measure -- java -Xmx1g -Duser.timezone=UTC \
    --add-opens=java.base/java.lang=ALL-UNNAMED --add-opens=java.base/java.util=ALL-UNNAMED \
    --add-opens=java.base/java.time=ALL-UNNAMED --add-opens=java.base/java.util.concurrent=ALL-UNNAMED \
    -cp "$COMPARE_WORK/classes:$FLINK_HOME/libs/*" RunSql "$HERE/flink.sql"
}
