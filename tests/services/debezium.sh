# shellcheck shell=bash
# Debezium's connector for PostgreSQL. A plugin, not a service: tests start Connect workers of their
# own, from the jars that Kafka brings.

DEBEZIUM_VERSION=3.7.0.Final
DEBEZIUM=$SERVICES/debezium-postgres-$DEBEZIUM_VERSION

debezium_present() { [ -d "$DEBEZIUM" ]; }

debezium_install() { maven_archive "io.debezium:debezium-connector-postgres:$DEBEZIUM_VERSION:tar.gz:plugin" "$DEBEZIUM"; }
