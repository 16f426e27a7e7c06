# shellcheck shell=bash
# Apache Kafka: one node, broker and controller, from the jars of Maven Central. Needs Java 17.

KAFKA_VERSION=4.3.1
KAFKA_HOME=$SERVICES/kafka-$KAFKA_VERSION

kafka_present() { [ -d "$KAFKA_HOME" ]; }

kafka_install() {
  need java default-jre-headless
  need mvn maven
  local making=$KAFKA_HOME.making
  rm -rf "$making"
  mkdir -p "$making"
  # Neither Kafka artifact brings a binding for slf4j: without the third the broker logs nothing.
  cat > "$making/pom.xml" << XML
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>highwater</groupId><artifactId>test-kafka</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>$KAFKA_VERSION</version></dependency>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>$KAFKA_VERSION</version></dependency>
    <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>2.25.4</version></dependency>
  </dependencies>
</project>
XML
  mvn -B -q -f "$making/pom.xml" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$making/libs"
  cat > "$making/log4j2.xml" << 'XML'
<Configuration status="WARN">
  <Appenders><Console name="C" target="SYSTEM_OUT"><PatternLayout pattern="[%d] %p %m (%c)%n"/></Console></Appenders>
  <Loggers><Root level="INFO"><AppenderRef ref="C"/></Root></Loggers>
</Configuration>
XML
  # Formatting needs a JVM of its own: done once here, each start copies the formatted directory.
  kafka_settings 9092 9093 "$making/data" > "$making/format.properties"
  java -Xmx128m -cp "$making/libs/*" kafka.tools.StorageTool format \
    --cluster-id aGlnaHdhdGVyLXRlc3RzLQ --config "$making/format.properties"
  mv "$making" "$KAFKA_HOME"
}

# kafka_settings PORT CONTROLLER_PORT DATA
kafka_settings() {
  cat << PROPERTIES
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$2
listeners=PLAINTEXT://127.0.0.1:$1,CONTROLLER://127.0.0.1:$2
advertised.listeners=PLAINTEXT://127.0.0.1:$1
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=$3
num.network.threads=2
num.io.threads=4
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
log.cleaner.dedupe.buffer.size=16777216
PROPERTIES
}

kafka_launch() {
  rm -rf "$RUN/kafka"
  mkdir -p "$RUN/kafka"
  cp -r "$KAFKA_HOME/data" "$RUN/kafka/data"
  KAFKA_PORT=$(free_port)
  kafka_settings "$KAFKA_PORT" "$(free_port)" "$RUN/kafka/data" > "$RUN/kafka/server.properties"
  launch kafka java -Xms256m -Xmx512m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 \
    -Dlog4j2.configurationFile="$KAFKA_HOME/log4j2.xml" -cp "$KAFKA_HOME/libs/*" kafka.Kafka server.properties
}

kafka_ready() { grep -q 'Kafka Server started' "$RUN/kafka.log" && answers "$KAFKA_PORT"; }

kafka_stop_signal() { echo TERM; }
