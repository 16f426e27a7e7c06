# shellcheck shell=bash
# Kafka Connect with Apache Iceberg's sink, the lake alone: Connect aggregates nothing. One standalone
# worker of the Kafka that the tests install, the sink from the jars of Maven Central (connect.pom.xml),
# into a table below a local folder (CreateTable.java). Needs a JDK of 17 or later.

ICEBERG_VERSION=1.12.0
CONNECT_HOME=$SERVICES/connect-iceberg-$ICEBERG_VERSION

connect_present() { [ -d "$CONNECT_HOME" ] && kafka_present; }

connect_install() {
  install_once kafka
  need javac default-jdk-headless
  jars_of connect "$CONNECT_HOME" plugins/iceberg -Diceberg.version=$ICEBERG_VERSION
}

connect_version() { echo "iceberg $ICEBERG_VERSION"; }

connect_launch() {
  # Of its own each time: a group goes on where it was.
  local sink=$COMPARE_TOPIC-connect-$RANDOM$RANDOM code=0
  java -cp "$CONNECT_HOME/plugins/iceberg/*" "$HERE/CreateTable.java" "file://$COMPARE_LAKE" taps \
    > "$COMPARE_WORK/log" 2>&1 || return
  # The sink wants it to be there. By it the tasks agree on commits.
  connect_topic --create --topic "$sink" --partitions 1 || return
  # The sink's own clients have their settings from the worker's.
  cat > "$COMPARE_WORK/worker.properties" << PROPERTIES
bootstrap.servers=$COMPARE_BROKERS
listeners=http://127.0.0.1:$(free_port)
plugin.path=$CONNECT_HOME/plugins
plugin.discovery=service_load
key.converter=org.apache.kafka.connect.storage.StringConverter
value.converter=org.apache.kafka.connect.json.JsonConverter
value.converter.schemas.enable=false
offset.storage.file.filename=$COMPARE_WORK/offsets
# How long a task without records waits before it sees that a commit has begun.
offset.flush.interval.ms=1000
PROPERTIES
  # Two tasks, as Flink has. The job ends with a commit: every minute, as often as highwater ends its
  # files (`roll.age`), would make fewer files at the same CPU, and have it wait at the end.
  cat > "$COMPARE_WORK/sink.properties" << PROPERTIES
name=$sink
connector.class=org.apache.iceberg.connect.IcebergSinkConnector
tasks.max=2
topics=$COMPARE_TOPIC
iceberg.tables=taps
iceberg.catalog.type=hadoop
iceberg.catalog.warehouse=file://$COMPARE_LAKE
iceberg.control.topic=$sink
iceberg.control.commit.interval-ms=10000
transforms=origin
transforms.origin.type=org.apache.kafka.connect.transforms.InsertField\$Value
transforms.origin.partition.field=_partition
transforms.origin.offset.field=_offset
transforms.origin.timestamp.field=_timestamp
PROPERTIES
  measure --lake-only --iceberg taps -- \
    java -Xmx1g -Dlog4j2.configurationFile="$KAFKA_HOME/log4j2.xml" -cp "$KAFKA_HOME/libs/*" \
    org.apache.kafka.connect.cli.ConnectStandalone worker.properties sink.properties || code=$?
  connect_topic --delete --topic "$sink"
  return $code
}

# connect_topic OPTION…: of Kafka's own command.
connect_topic() {
  java -Xmx128m -XX:TieredStopAtLevel=1 -cp "$KAFKA_HOME/libs/*" \
    org.apache.kafka.tools.TopicCommand --bootstrap-server "$COMPARE_BROKERS" "$@" >> "$COMPARE_WORK/log" 2>&1
}
