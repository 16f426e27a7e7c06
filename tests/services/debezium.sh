# shellcheck shell=bash
# Debezium's connector for PostgreSQL. A plugin, not a service: tests start Connect workers of their
# own, from the jars that Kafka brings.

DEBEZIUM_VERSION=3.7.0.Final
DEBEZIUM=$SERVICES/debezium-postgres-$DEBEZIUM_VERSION

debezium_present() { [ -d "$DEBEZIUM" ]; }

debezium_install() {
  need java default-jre-headless
  need mvn maven
  local making=$DEBEZIUM.making
  rm -rf "$making"
  mkdir -p "$making"
  mvn -B -q dependency:copy -DoutputDirectory="$making" \
    -Dartifact="io.debezium:debezium-connector-postgres:$DEBEZIUM_VERSION:tar.gz:plugin"
  tar xzf "$making"/*.tar.gz -C "$making"
  rm "$making"/*.tar.gz
  mv "$making" "$DEBEZIUM"
}
