# shellcheck shell=bash
# Flink SQL (flink.sql) in a mini cluster, all in one process (RunSql.java), from the jars of Maven
# Central. Needs a JDK of 17 or later.

FLINK_VERSION=2.2.0
FLINK_HOME=$SERVICES/flink-$FLINK_VERSION

flink_present() { [ -d "$FLINK_HOME" ]; }

flink_install() {
  need javac default-jdk-headless
  need mvn maven
  local making=$FLINK_HOME.making artifact
  rm -rf "$making"
  mkdir -p "$making"
  {
    echo '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
    echo '<groupId>highwater</groupId><artifactId>compare-flink</artifactId><version>1</version>'
    echo '<packaging>pom</packaging><dependencies>'
    # Parquet's writer wants Hadoop's settings, though no Hadoop.
    for artifact in \
      org.apache.flink:{flink-table-planner_2.12,flink-table-runtime,flink-clients}:$FLINK_VERSION \
      org.apache.flink:{flink-connector-base,flink-connector-files,flink-json,flink-parquet}:$FLINK_VERSION \
      org.apache.flink:flink-connector-kafka:5.0.0-2.2 \
      org.apache.flink:flink-connector-jdbc-{core,postgres}:4.0.0-2.0 \
      org.apache.hadoop:hadoop-client-{api,runtime}:3.4.2 \
      org.postgresql:postgresql:42.7.7 \
      org.apache.logging.log4j:log4j-slf4j-impl:2.25.4; do
      echo "$artifact" | awk -F : '{
        print "<dependency><groupId>" $1 "</groupId><artifactId>" $2 "</artifactId><version>" $3 "</version></dependency>" }'
    done
    echo '</dependencies></project>'
  } > "$making/pom.xml"
  mvn -B -q -f "$making/pom.xml" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$making/libs"
  cat > "$making/log4j2.xml" << 'XML'
<Configuration status="WARN">
  <Appenders><Console name="C" target="SYSTEM_ERR"><PatternLayout pattern="[%d] %p %m (%c)%n"/></Console></Appenders>
  <Loggers><Root level="WARN"><AppenderRef ref="C"/></Root></Loggers>
</Configuration>
XML
  mv "$making" "$FLINK_HOME"
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
  measure java -Xmx1g -Duser.timezone=UTC -Dlog4j2.configurationFile="$FLINK_HOME/log4j2.xml" \
    --add-opens=java.base/java.lang=ALL-UNNAMED --add-opens=java.base/java.util=ALL-UNNAMED \
    --add-opens=java.base/java.time=ALL-UNNAMED --add-opens=java.base/java.util.concurrent=ALL-UNNAMED \
    -cp "$COMPARE_WORK/classes:$FLINK_HOME/libs/*" RunSql "$HERE/flink.sql"
}
